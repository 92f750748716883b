import numpy as np
import pytest
from fake_records import fake

from universal_embedding.errors import UserError
from universal_embedding.retrieval import assessment, report, sources, table
from universal_embedding.retrieval.sources import Pair


def write(path, **changes):
    arrays = {
        "domain": np.array(["a", "a", "b", "a"]),
        "image_id": np.array(["x1.jpg", "x0.jpg", "x0.jpg", "unused.jpg"]),
        "embedding": np.array([[0, 2], [3, 4], [1, 0], [9, 9]], np.float16),
    }
    arrays |= changes
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return str(path)


def test_rows_are_found_by_domain_and_image_id_and_get_unit_length(tmp_path):
    source = sources.of_table(write(tmp_path / "e.npz"))
    made = sources.embed_pairs(source, {"a": Pair(fake("a", "test", [1, 1]), None)})
    np.testing.assert_allclose(made["a"].query, [[0.6, 0.8], [0, 1]], atol=1e-6)


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
def test_unusable_files_are_named_errors(tmp_path, changes, message):
    path = write(tmp_path / "e.npz", **changes)
    with pytest.raises(UserError, match=message):
        sources.of_table(path)


def test_missing_file_is_an_error(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        sources.of_table(str(tmp_path / "none.npz"))


def test_record_without_a_row_is_an_error(tmp_path):
    source = sources.of_table(write(tmp_path / "e.npz"))
    with pytest.raises(UserError, match=r"no row for 1 of the 3 .*'x2.jpg'"):
        source.embed(fake("a", "test", [1, 1, 1]))


def test_not_a_number_is_an_error(tmp_path):
    rows = np.array([[0, 1], [np.nan, 1], [0, 1], [1, 1]], np.float32)
    source = sources.of_table(write(tmp_path / "e.npz", embedding=rows))
    with pytest.raises(UserError, match=r"1 of 2 embeddings .*x0.jpg"):
        sources.embed_pairs(source, {"a": Pair(fake("a", "test", [1, 1]), None)})


def test_written_embeddings_are_read_back(tmp_path):
    records = fake("a", "test", [1, 2, 3])
    rows = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    table.write(tmp_path / "e.npz", [(records, rows)])
    np.testing.assert_array_equal(table.EmbeddingTable(tmp_path / "e.npz")(records), rows)


@pytest.fixture
def pairs():
    classes = np.arange(60) % 12
    return {
        "a": Pair(fake("a", "test", classes), None),
        "b": Pair(fake("b", "test", classes), fake("b", "index", classes, "y")),
    }


def noisy(name, noise):
    def embed(records):
        rng = np.random.default_rng(len(records.split))
        rows = np.eye(12, 16)[records.labels.values] + noise * rng.standard_normal(16)
        return (rows + noise * rng.standard_normal(rows.shape)).astype(np.float32)

    return sources.Source(name, embed)


def test_two_sources_give_a_comparison_with_interval(pairs, tmp_path):
    options = assessment.Options(resamples=200)
    assessed = [assessment.assess(noisy(str(n), n), pairs, options) for n in (0.2, 0.6)]
    numbers = {"dataset": "d", "split": "test", **assessment.numbers(assessed, options)}
    entry = numbers["compared"]["0.6"]["difference"]["merged"]["mean"]["r_at_1"]
    good, bad = (n["merged"]["mean"]["r_at_1"] for n in (numbers, numbers["compared"]["0.6"]))
    assert entry["difference"] == pytest.approx(bad - good) and bad < good
    low, high = entry["interval"]
    assert low < entry["difference"] < high < 0
    assert "0.6 minus 0.2" in report.text(numbers)
    paths = report.write(numbers, tmp_path)
    assert [path.name for path in paths] == ["report.json", "report.md"]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"metrics": ["r_at_0"]}, "no metric is called 'r_at_0'"),
        ({"protocols": ["joint"]}, r"protocols are \['joint'\]"),
        ({"metrics": []}, "at least one of each"),
    ],
)
def test_unknown_metrics_and_protocols_are_named_errors(changes, message):
    with pytest.raises(UserError, match=message):
        assessment.Options(**changes)


def test_sources_of_one_name_are_numbered():
    made = sources.named_apart([noisy("x", 1), noisy("y", 1), noisy("x", 1)])
    assert [source.name for source in made] == ["x #1", "y", "x #2"]


def test_import_is_cheap():
    import subprocess
    import sys

    code = (
        "import sys, universal_embedding.retrieval.evaluation, universal_embedding.retrieval."
        "assessment; assert not {'tensorflow', 'scann', 'sklearn'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
