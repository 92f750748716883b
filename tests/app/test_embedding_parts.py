"""Embedding into parts: layout, errors, resuming after kills, and Beam."""

import functools
import os
import random
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.helpers.image_folder import MeanColorModel, write_color_folder
from tests.helpers.processes import call_cli
from universal_embedding.app.embedding_parts import PartsConfig, embed_images
from universal_embedding.app.image_sources import open_source
from universal_embedding.app.vector_files import read_vectors
from universal_embedding.datasets.beam import parse_beam_options
from universal_embedding.datasets.image_files import read_image
from universal_embedding.errors import UserError

parquet = pytest.importorskip("pyarrow.parquet")


class BytesModel:
    """`MeanColorModel` of encoded images."""

    embedding_dim = 48

    def __init__(self, name="model", seconds=0.0):
        self._model, self._seconds = MeanColorModel(name), seconds
        self.fingerprint = self._model.fingerprint

    def encode(self, images, batch_size=32, show_progress_bar=None):
        time.sleep(self._seconds * len(images))
        return self._model.encode([read_image(image) for image in images])


def embed(folder, output, name="model", options=None, **config):
    config = PartsConfig(str(output), **{"images_per_part": 5, "batch_size": 3, **config})
    source = open_source(str(folder))
    return embed_images(functools.partial(BytesModel, name), name, source, config, options)


@pytest.fixture
def folder(tmp_path):
    folder = write_color_folder(tmp_path / "images")
    (folder / "green" / "1.png").write_bytes(b"no image")
    return folder


def content(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_row_of_one_file_is_the_row_of_the_other(folder, tmp_path):
    assert embed(folder, tmp_path / "out") == (12, 1)
    parts = list(read_vectors(tmp_path / "out"))
    assert [(name, len(rows)) for name, rows, _ in parts] == [
        ("part-00000", 5),
        ("part-00001", 5),
        ("part-00002", 2),
    ]
    model, seen = MeanColorModel(), []
    for _, rows, table in parts:
        for row, image in zip(rows, table.to_pylist(), strict=True):
            seen.append(image["name"])
            path = folder / image["name"]
            assert image["size"] == path.stat().st_size
            assert image["label"] == [path.parent.name]
            if image["name"] == "green/1.png":
                assert "cannot decode" in image["error"] and not row.any()
                continue
            assert image["error"] is None
            np.testing.assert_allclose(row, model.encode([read_image(path)])[0], atol=1e-3)
    assert seen == sorted(seen) and len(seen) == 12
    errors = parquet.read_table(tmp_path / "out" / "errors.parquet").to_pylist()
    assert [error["name"] for error in errors] == ["green/1.png"]


def test_int8_rows_are_within_half_a_step(folder, tmp_path):
    embed(folder, tmp_path / "exact", dtype="float32")
    embed(folder, tmp_path / "int8", dtype="int8")
    for (_, rows, _), (_, exact, table) in zip(
        read_vectors(tmp_path / "int8"), read_vectors(tmp_path / "exact"), strict=True
    ):
        codes = np.load(tmp_path / "int8" / "part-00000.npy")
        assert codes.dtype == np.int8 and abs(codes).max() == 127
        step = np.abs(exact).max(1, keepdims=True) / 127
        assert (np.abs(rows - exact) <= 0.6 * step).all()
        assert len(table) == len(rows)


def test_finished_parts_are_left_and_missing_ones_made_again(folder, tmp_path):
    output = tmp_path / "out"
    embed(folder, output)
    whole = content(output)
    (output / "part-00001.npy").unlink()
    before = (output / "part-00000.npy").stat().st_mtime_ns
    embed(folder, output)
    assert content(output) == whole
    assert (output / "part-00000.npy").stat().st_mtime_ns == before


def test_other_settings_in_the_same_directory_raise_user_error(folder, tmp_path):
    embed(folder, tmp_path / "out")
    with pytest.raises(UserError, match="holds embeddings with fingerprint="):
        embed(folder, tmp_path / "out", name="other")
    with pytest.raises(UserError, match="dtype=float16, not int8"):
        embed(folder, tmp_path / "out", dtype="int8")
    (folder / "red" / "3.png").unlink()
    with pytest.raises(UserError, match="num_images=12, not 11"):
        embed(folder, tmp_path / "out")


def test_interrupted_between_any_two_images_it_ends_with_the_same_bytes(
    folder, tmp_path, monkeypatch
):
    embed(folder, tmp_path / "whole")
    encode, calls = BytesModel.encode, []

    def stop_now_and_then(self, images, **kwargs):
        calls.append(len(images))
        if len(calls) % 6 == 0:  # more than a part takes
            raise KeyboardInterrupt
        return encode(self, images, **kwargs)

    monkeypatch.setattr(BytesModel, "encode", stop_now_and_then)
    num_stops = 0
    while True:
        try:
            embed(folder, tmp_path / "stopped")
            break
        except KeyboardInterrupt:
            num_stops += 1
    assert num_stops == 2
    assert content(tmp_path / "stopped") == content(tmp_path / "whole")


PROGRAM = """
import functools, sys
from tests.app.test_embedding_parts import BytesModel
from universal_embedding.app.embedding_parts import PartsConfig, embed_images
from universal_embedding.app.image_sources import open_source
model = functools.partial(BytesModel, seconds=0.1)
embed_images(model, "model", open_source(sys.argv[1]), PartsConfig(sys.argv[2], 1, batch_size=3))
"""


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_bytes(folder, tmp_path):
    embed(folder, tmp_path / "whole", images_per_part=1)
    output, rng = tmp_path / "killed", random.Random(0)
    for count in (2, 5, 9):
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(folder), str(output)])
        while process.poll() is None and len(list(output.glob("*.npy"))) < count:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        process.wait()
        assert count <= len(list(output.glob("*.npy"))) < 12
    embed(folder, output, images_per_part=1)
    whole = {name: data for name, data in content(output).items() if not name.startswith(".")}
    assert whole == content(tmp_path / "whole")


def test_beam_writes_the_same_bytes(folder, tmp_path):
    pytest.importorskip("apache_beam")
    embed(folder, tmp_path / "plain")
    counts = embed(folder, tmp_path / "beam", options=parse_beam_options("runner=DirectRunner"))
    assert counts == (12, 1)
    assert content(tmp_path / "beam") == content(tmp_path / "plain")


def test_parquet_list_names_the_images(folder, tmp_path):
    import pyarrow as pa

    table = pa.table({"name": ["red/1.png", str(folder / "blue" / "0.png")], "label": ["a", None]})
    parquet.write_table(table, folder / "list.parquet")
    source = open_source(str(folder / "list.parquet"))
    assert source.labels == [["a"], []]
    assert [source.read(i) for i in range(2)] == [
        (folder / "red" / "1.png").read_bytes(),
        (folder / "blue" / "0.png").read_bytes(),
    ]
    parquet.write_table(pa.table({"path": ["x"]}), folder / "wrong.parquet")
    with pytest.raises(UserError, match="a column `name`"):
        open_source(str(folder / "wrong.parquet"))


def test_vectors_of_another_program_are_read(tmp_path):
    np.save(tmp_path / "vectors.npy", np.array([[3.0, 4], [0, 0]]))
    ((name, rows, table),) = read_vectors(tmp_path)
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0, 0]])
    assert name == "vectors" and table["name"].to_pylist() == ["vectors/0", "vectors/1"]
    np.save(tmp_path / "vectors.npy", np.zeros(3))
    with pytest.raises(UserError, match=r"vectors.npy has shape \(3,\)"):
        list(read_vectors(tmp_path))


def test_images_whose_names_cannot_be_stored_are_named(folder, tmp_path):
    for name in (b"caf\xe9.png", b"two\nlines.png"):
        (folder / os.fsdecode(name)).write_bytes((folder / "green" / "2.png").read_bytes())
    (folder / "gone.png").symlink_to("nowhere")
    assert embed(folder, tmp_path / "out") == (15, 4)
    rows = parquet.read_table(tmp_path / "out" / "errors.parquet").to_pylist()
    reasons = {row["name"]: row["error"] for row in rows}
    assert "not UTF-8" in reasons["caf\\udce9.png"]
    assert "control character" in reasons["two\\nlines.png"]
    assert reasons["gone.png"] == "the file is missing"


def test_command_without_its_model_says_so_in_one_line(folder, tmp_path):
    code, _, err = call_cli(
        "embed", "--model=absent", f"--images={folder}", f"--output={tmp_path / 'out'}"
    )
    assert code == 1
    assert err.count("\n") == 1 and "absent" in err
    assert not (tmp_path / "out").exists()
