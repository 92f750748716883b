"""`embed` and `evaluate --embeddings` of prepared images, with a simple and with a real model."""

import functools
import json

import numpy as np
import pytest

from tests.app.test_embedding_parts import BytesModel, content
from tests.helpers.layouts import toys_builder, write_small_dataset
from tests.helpers.processes import run_cli
from universal_embedding.app.embedding_parts import PartsConfig, embed_images
from universal_embedding.app.image_sources import open_source
from universal_embedding.app.stored_embeddings import stored_source
from universal_embedding.datasets import prepare
from universal_embedding.errors import UserError
from universal_embedding.evaluation.embed import embed_eval_sets, from_encoder, open_eval_sets

pa = pytest.importorskip("pyarrow")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """(data directory, folder of the domain `toys`, its original images)."""
    root = write_small_dataset(tmp_path_factory.mktemp("manual"))
    data = tmp_path_factory.mktemp("data")
    prepare.prepare(toys_builder(data), root)
    (info,) = (data / "small" / "toys").glob("*/dataset_info.json")
    return data, info.parent, root / "images"


def embed(open_model, images, output, split="test"):
    config = PartsConfig(str(output), images_per_part=2, dtype="float32", batch_size=2)
    return embed_images(open_model, "model", open_source(str(images), split), config)


def test_evaluation_of_stored_embeddings_equals_that_of_their_model(prepared, tmp_path):
    data, folder, _ = prepared
    for split in ("test", "index"):
        embed(BytesModel, folder, tmp_path / "e" / "toys" / split, split)
    sets = open_eval_sets(data, "small", "test", ["toys"])
    stored = embed_eval_sets(stored_source(tmp_path / "e"), sets)["toys"]
    expected = embed_eval_sets(from_encoder("m", BytesModel().encode, 4), sets)["toys"]
    np.testing.assert_allclose(stored.query, expected.query, atol=1e-6)
    np.testing.assert_allclose(stored.index, expected.index, atol=1e-6)
    below = embed_eval_sets(stored_source(tmp_path / "e" / "toys"), sets)["toys"]
    np.testing.assert_array_equal(below.index, stored.index)

    part = tmp_path / "e" / "toys" / "index" / "part-00001.npy"
    rows = np.load(part)
    np.save(part, np.zeros_like(rows))
    with pytest.raises(UserError, match="no embedding for 1 of the 3 images of toys index"):
        embed_eval_sets(stored_source(tmp_path / "e"), sets)
    np.save(part, rows[:, :5])
    with pytest.raises(UserError, match="embeddings of 5 numbers"):
        embed_eval_sets(stored_source(tmp_path / "e"), sets)
    np.save(part, rows)
    embed(BytesModel, folder, tmp_path / "e" / "toys" / "again", "index")
    with pytest.raises(UserError, match="two rows for an image of toys index"):
        embed_eval_sets(stored_source(tmp_path / "e"), sets)
    with pytest.raises(UserError, match="no embedding for 2 of the 2 images"):
        embed_eval_sets(stored_source(tmp_path / "nothing"), sets)


@pytest.mark.slow
def test_real_model_gives_the_same_rows_from_folder_records_and_list(prepared, tmp_path):
    import pyarrow.parquet

    from tests.helpers.tiny_model import export_tiny_model
    from universal_embedding.export.embedder import Embedder

    data, folder, images = prepared
    model, _ = export_tiny_model(tmp_path)
    open_model = functools.partial(Embedder.from_pretrained, model)
    names = [f"toys/c/{i}.jpg" for i in range(2)] + [f"toys/d/{i}.jpg" for i in range(3)]
    pyarrow.parquet.write_table(pa.table({"name": names}), images / "list.parquet")
    expected = open_model().encode([(images / name).read_bytes() for name in names])
    for split in ("test", "index"):
        assert embed(open_model, folder, tmp_path / "e" / "toys" / split, split)[1] == 0
    embed(open_model, images / "list.parquet", tmp_path / "list")
    embed(open_model, images / "toys", tmp_path / "folder")
    whole = content(tmp_path / "list")
    (tmp_path / "list" / "part-00001.npy").unlink()
    embed(open_model, images / "list.parquet", tmp_path / "list")
    assert content(tmp_path / "list") == whole  # in batches as before, to the last bit

    def rows_by_name(*outputs):
        tables = [
            (p, pyarrow.parquet.read_table(p.with_suffix(".parquet")))
            for output in outputs
            for p in sorted(output.glob("part-*.npy"))
        ]
        return {
            n: row
            for p, table in tables
            for n, row in zip(table["name"].to_pylist(), np.load(p), strict=True)
        }

    listed = rows_by_name(tmp_path / "list")
    np.testing.assert_allclose([listed[name] for name in names], expected, atol=1e-5)
    walked = rows_by_name(tmp_path / "folder")
    np.testing.assert_allclose(
        [walked[n.removeprefix("toys/")] for n in names], expected, atol=1e-5
    )
    recorded = rows_by_name(tmp_path / "e" / "toys" / "test", tmp_path / "e" / "toys" / "index")
    np.testing.assert_allclose([recorded[name] for name in names], expected, atol=1e-5)

    flags = [f"--data_dir={data}", "--dataset=small", "--domains=toys", "--bootstrap_samples=0"]
    flags += [f"--output={tmp_path / 'report'}", "--num_examples=0"]
    sources = [f"--embeddings={tmp_path / 'e'}", f"--model={model}"]
    code, _, err = run_cli("evaluate", *sources, *flags)
    assert code == 0, err
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["source"] == model.name
    for protocol in ("merged", "separate"):
        assert report["comparisons"]["e"][protocol] == report[protocol]
