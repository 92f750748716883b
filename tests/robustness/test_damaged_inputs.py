"""Side files of records, embeddings and models that are damaged, or written by a stranger."""

import json
import random
import sys

import keras
import numpy as np
import pytest

from tests.helpers.damage import damage_each
from tests.helpers.image_folder import MeanColorModel, write_color_folder
from tests.helpers.layouts import write_small_dataset
from tests.helpers.tiny_model import build_model
from universal_embedding.app import embedding_parts, vector_files
from universal_embedding.app.image_sources import open_source
from universal_embedding.datasets import contact_sheet, metadata, prepare, records
from universal_embedding.datasets.embedding_table import EmbeddingTable
from universal_embedding.datasets.uned import UnedLayoutBuilder
from universal_embedding.errors import UserError
from universal_embedding.export.embedder import Embedder

SOME = pytest.param(2, id="some")
MANY = pytest.param(60, id="many", marks=pytest.mark.robustness)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """(image folder, data_dir, prepared folder) of one domain."""
    root = write_small_dataset(tmp_path_factory.mktemp("manual"))
    (root / "info_files/toys/class_names.json").write_text('{"0": "caf\u00e9\\nbar"}')
    data_dir = tmp_path_factory.mktemp("data")
    builder = UnedLayoutBuilder("small", "toys", data_dir=data_dir)
    assert prepare.prepare(builder, root)
    skipped = json.dumps(["train", "toys/a/9.jpg", "empty"]) + "\n"
    (builder.folder / "skipped.jsonl").write_text(skipped)
    return root, data_dir, builder.folder


@pytest.mark.parametrize("times", [SOME, MANY])
def test_damaged_files_of_records_are_one_line(prepared, times):
    root, data_dir, folder = prepared

    def read():
        keys = records.list_prepared_domains(data_dir, "small")
        prepare.format_table(prepare.summarize(data_dir, "small", keys))
        prepare.verify_records(folder, "toys")
        contact_sheet.contact_sheet(data_dir, "small", keys)
        prepare.prepare(UnedLayoutBuilder("small", "toys", data_dir=data_dir), root)

    files = sorted(path for path in folder.iterdir() if path.is_file())
    tried, refused = damage_each(files, read, random.Random(1), times)
    print(f"prepared files: {tried} tried, {refused} named")
    assert len(files) == 13 and refused > 0.8 * tried


@pytest.fixture
def changed(prepared):
    """Changes a JSON file of the prepared folder; it is as before when the test ends."""
    whole = {}

    def change(name, old, new):
        path = prepared[2] / name
        whole[path] = path.read_text()
        assert old in whole[path]
        path.write_text(whole[path].replace(old, new, 1))

    yield change
    for path, text in whole.items():
        path.write_text(text)


@pytest.mark.parametrize("key", ["pythonClassName", "python_class_name", "type"])
def test_description_of_a_stranger_imports_no_module(prepared, changed, key, tmp_path, monkeypatch):
    (tmp_path / "stranger.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    own = '"pythonClassName": "tensorflow_datasets.core.features.text_feature.Text"'
    changed("features.json", own, f'"{key}": "stranger.Text", "content": {{}}')
    with pytest.raises(UserError, match=r"features.json names 'stranger.Text'"):
        records.open_records(prepared[1], "small", "toys", "train")
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize("place", ["../{SPLIT}", "/etc/{SPLIT}", "a/../../{SPLIT}"])
def test_description_of_a_stranger_names_no_file_elsewhere(prepared, changed, place):
    changed("dataset_info.json", "{DATASET}-{SPLIT}", place)
    with pytest.raises(UserError, match=r"outside of the folder"):
        metadata.open_builder(prepared[2])


def test_folder_with_another_name_than_a_domain_is_left_out(prepared):
    stranger = prepared[1] / "small" / '"><img src=x onerror=alert(1)>'
    stranger.mkdir()
    (stranger / "3.0.0").symlink_to(prepared[2])
    assert records.list_prepared_domains(prepared[1], "small") == ["toys"]


def test_class_name_of_two_lines_has_a_caption_of_one(prepared, tmp_path):
    sheet = contact_sheet.contact_sheet(prepared[1], "small", ["toys"])
    contact_sheet.save_montage(sheet, tmp_path / "sheet.png")
    font = contact_sheet.ImageFont.load_default(11)
    assert contact_sheet.fit_text("a\nb\x1b", font, 999) == r"a\nb\x1b"
    assert font.getlength(contact_sheet.fit_text("w" * 99, font, 128)) <= 128


@pytest.fixture
def npz(tmp_path):
    def write(**arrays):
        default = {"domain": ["a"] * 5, "image_id": list("vwxyz"), "embedding": np.eye(5)}
        np.savez(tmp_path / "e.npz", **(default | arrays))
        return tmp_path / "e.npz"

    return write


@pytest.mark.parametrize(
    "times", [pytest.param(60, id="some"), pytest.param(600, marks=MANY.marks)]
)
def test_damaged_npz_of_embeddings_is_one_line(npz, times):
    path = npz()
    tried, refused = damage_each([path], lambda: EmbeddingTable(path), random.Random(2), times)
    print(f".npz: {tried} tried, {refused} named")
    assert refused > 0.5 * tried


@pytest.mark.parametrize(
    "arrays",
    [
        {"domain": "a"},
        {"image_id": [["v"]] * 5},
        {"embedding": np.eye(5)[0]},
        {"embedding": np.float32(3)},
        {"embedding": np.eye(5, dtype=int)},
        {"image_id": np.array([object()] * 5)},
    ],
)
def test_npz_of_other_arrays_is_one_line(npz, arrays):
    with pytest.raises(UserError, match=r"e\.npz"):
        EmbeddingTable(npz(**arrays))


def test_header_that_declares_more_than_the_memory_is_one_line(tmp_path):
    np.save(tmp_path / "part-00000.npy", np.zeros((2, 3), np.float16))
    data = (tmp_path / "part-00000.npy").read_bytes()
    (tmp_path / "part-00000.npy").write_bytes(
        data.replace(b"(2, 3), }" + 9 * b" ", b"(99999999999, 3), }")
    )
    with pytest.raises(UserError, match="part-00000"):
        list(vector_files.read_vectors(tmp_path))


class BytesModel(MeanColorModel):
    embedding_dim = 48

    def encode(self, images, **kwargs):
        from universal_embedding.datasets.image_files import read_image

        return super().encode([read_image(image) for image in images])


@pytest.mark.parametrize("times", [SOME, MANY])
def test_damaged_parts_of_embeddings_are_one_line(times, tmp_path):
    source = open_source(str(write_color_folder(tmp_path / "images")))
    config = embedding_parts.PartsConfig(str(tmp_path / "parts"), images_per_part=5)

    def read():
        embedding_parts.embed_images(BytesModel, "model", source, config)
        list(vector_files.read_vectors(tmp_path / "parts"))

    read()
    files = sorted((tmp_path / "parts").iterdir())
    tried, refused = damage_each(files, read, random.Random(3), times)
    print(f"parts: {tried} tried, {refused} named")
    assert len(files) == 8 and refused > 0.3 * tried


@pytest.mark.parametrize("times", [pytest.param(10, id="some"), MANY])
def test_damaged_keras_file_is_one_line(times, tmp_path):
    path = tmp_path / "model.keras"
    build_model(8).save(path)
    tried, refused = damage_each(
        [path], lambda: Embedder.from_pretrained(path), random.Random(4), times
    )
    keras.backend.clear_session()
    print(f"Keras file: {tried} tried, {refused} named")
    assert refused > 0.3 * tried
