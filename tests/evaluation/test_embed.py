import numpy as np
import pytest

from tests.helpers.fake_records import FakeRecords, make_domains
from universal_embedding.datasets.embedding_table import EmbeddingTable, write_npz
from universal_embedding.errors import UserError
from universal_embedding.evaluation.embed import (
    EmbeddingSource,
    QueryIndexRecords,
    dedupe_names,
    embed_eval_sets,
    from_encoder,
    from_npz,
)


def make_records(labels):
    ids = [f"x{i}.jpg" for i in range(len(labels))]
    return FakeRecords("a", labels, split="test", image_ids=ids)


def write_file(path, **changes):
    arrays = {
        "domain": np.array(["a", "a", "b", "a"]),
        "image_id": np.array(["x1.jpg", "x0.jpg", "x0.jpg", "unused.jpg"]),
        "embedding": np.array([[0, 2], [3, 4], [1, 0], [9, 9]], np.float16),
    }
    arrays |= changes
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return str(path)


def test_npz_rows_are_looked_up_by_domain_and_image_id_and_scaled_to_unit_length(tmp_path):
    source = from_npz(write_file(tmp_path / "e.npz"))
    eval_sets = {"a": QueryIndexRecords(make_records([1, 1]), None)}
    domains = embed_eval_sets(source, eval_sets)
    np.testing.assert_allclose(domains["a"].query, [[0.6, 0.8], [0, 1]], atol=1e-6)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"embedding": None}, "none called 'embedding'"),
        ({"embedding": np.zeros((3, 2), np.float32)}, r"\(3, 2\)"),
        ({"embedding": np.zeros((4, 2), np.int64)}, "int64"),
        ({"image_id": np.array(["x1.jpg", "x0.jpg", "x0.jpg", "x1.jpg"])}, "more than one row"),
        ({"image_id": np.array(["x1.jpg"] * 4, object)}, "cannot be read"),
    ],
)
def test_npz_of_another_format_raises_user_error(tmp_path, changes, message):
    path = write_file(tmp_path / "e.npz", **changes)
    with pytest.raises(UserError, match=message):
        from_npz(path)


def test_missing_npz_raises_user_error(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        from_npz(str(tmp_path / "none.npz"))


def test_record_without_an_npz_row_raises_user_error(tmp_path):
    source = from_npz(write_file(tmp_path / "e.npz"))
    with pytest.raises(UserError, match=r"no row for 1 of the 3 .*'x2.jpg'"):
        source.embed(make_records([1, 1, 1]))


def test_embedding_that_is_not_a_number_raises_user_error(tmp_path):
    rows = np.array([[0, 1], [np.nan, 1], [0, 1], [1, 1]], np.float32)
    source = from_npz(write_file(tmp_path / "e.npz", embedding=rows))
    with pytest.raises(UserError, match=r"1 of 2 embeddings .*x0.jpg"):
        embed_eval_sets(source, {"a": QueryIndexRecords(make_records([1, 1]), None)})


def test_written_npz_is_read_back(tmp_path):
    records = make_records([1, 2, 3])
    rows = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    write_npz(tmp_path / "e.npz", [(records, rows)])
    np.testing.assert_array_equal(EmbeddingTable(tmp_path / "e.npz")(records), rows)


def test_encoder_gets_every_image_once_in_batches_and_in_order():
    (records,) = make_domains({"a": 7}).values()
    batches = []

    def encode(images, batch_size, show_progress_bar):
        assert batch_size == 3 and not show_progress_bar
        batches.append(len(images))
        return [[records.images.index(image), 1] for image in images]

    embeddings = from_encoder("x", encode, batch_size=3).embed(records)
    assert embeddings.dtype == np.float32
    assert embeddings[:, 0].tolist() == list(range(7)) and batches == [3, 3, 1]


def test_sources_of_one_name_are_numbered():
    sources = [EmbeddingSource(name, len) for name in ("x", "y", "x")]
    assert [source.name for source in dedupe_names(sources)] == ["x #1", "y", "x #2"]
