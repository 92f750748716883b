"""Invalid input is an error that names it, and leaves nothing half-written."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tests.helpers.layouts import write_image, write_small_dataset
from universal_embedding.datasets import prepare, records, shards, writer
from universal_embedding.datasets.examples import Labels
from universal_embedding.datasets.records import dataset_dir, list_prepared_domains, open_records
from universal_embedding.datasets.uned import list_info_domains
from universal_embedding.errors import UserError


@pytest.fixture
def root(tmp_path):
    return write_small_dataset(tmp_path / "manual")


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "data"


def prepare_toys(root: Path, data_dir: Path, **options) -> bool:
    builder = prepare.make_builder("small", "toys", data_dir=data_dir, **options)
    return prepare.prepare(builder, root)


def assert_refused(root: Path, data_dir: Path, *words: str):
    """Preparing fails with these words and leaves nothing that counts as prepared."""
    with pytest.raises(UserError) as caught:
        prepare_toys(root, data_dir)
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)
    assert_not_prepared(data_dir)


def assert_not_prepared(data_dir: Path):
    """Neither this package nor TFDS takes what is there for a dataset."""
    with pytest.raises(UserError, match="universal-embedding prepare"):
        list_prepared_domains(data_dir, "small")
    with pytest.raises(tfds.core.DatasetNotFoundError):
        tfds.load("small/toys", data_dir=data_dir, download=False)


def test_missing_info_files_are_an_error(tmp_path):
    with pytest.raises(UserError, match="info_files is not a directory"):
        list_info_domains(tmp_path / "info_files")
    (tmp_path / "info_files").mkdir()
    with pytest.raises(UserError, match="has no domains"):
        list_info_domains(tmp_path / "info_files")


def test_missing_image_folder_is_refused(root, data_dir):
    (root / "images").rename(root / "moved")
    assert_refused(root, data_dir, str(root / "images"), "missing")


def test_domain_without_splits_is_refused(root, data_dir):
    for file in (root / "info_files/toys").iterdir():
        file.unlink()
    assert_refused(root, data_dir, "neither train.json nor test.json")


@pytest.mark.parametrize(
    "content, words",
    [
        ("", ["not valid JSON"]),
        ('[{"path": "a.jpg", ', ["not valid JSON"]),
        ("<html>404</html>", ["not valid JSON"]),
        ("[]", ["empty"]),
        ("{}", ["dict", "not a list"]),
        ('["a.jpg"]', ["entry 0", "a.jpg"]),
        ('[{"path": "a.jpg"}]', ["entry 0", "class_id"]),
        ('[{"path": "a.jpg", "class_id": "dog"}]', ["entry 0", "'dog'"]),
        ('[{"path": "a.jpg", "class_id": []}]', ["entry 0", "[]"]),
        ('[{"path": "a.jpg", "class_id": true}]', ["entry 0", "True"]),
        ('[{"path": "", "class_id": 1}]', ["entry 0", "path"]),
        ('[{"path": "../a.jpg", "class_id": 1}]', ["entry 0", "../a.jpg"]),
        ('[{"path": "/a.jpg", "class_id": 1}]', ["entry 0", "/a.jpg"]),
        (
            '[{"path": "a.jpg", "class_id": 1}, {"path": "a.jpg", "class_id": 2}]',
            ["twice", "a.jpg"],
        ),
    ],
)
def test_invalid_info_file_is_refused(root, data_dir, content, words):
    file = root / "info_files/toys/val.json"
    file.write_text(content)
    assert_refused(root, data_dir, "toys", "val", *words)


def test_info_file_in_another_encoding_is_refused(root, data_dir):
    file = root / "info_files/toys/val.json"
    file.write_bytes('[{"path": "caf\u00e9.jpg"}]'.encode("latin-1"))
    assert_refused(root, data_dir, str(file), "UTF-8")


def test_invalid_class_names_are_refused(root, data_dir):
    file = root / "info_files/toys/class_names.json"
    file.write_text('{"dog": 1}')
    assert_refused(root, data_dir, str(file))


CORRUPTIONS = {
    "missing": lambda file: file.unlink(),
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:300]),
    "empty": lambda file: file.write_bytes(b""),
    "cannot decode image": lambda file: file.write_text("<html>not found</html>"),
}


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_corrupt_image_is_refused_by_name(root, data_dir, kind):
    file = root / "images/toys/a/4.jpg"
    original = file.read_bytes()
    CORRUPTIONS[kind](file)
    assert_refused(root, data_dir, str(file), kind, "--skip_corrupt")
    file.write_bytes(original)
    assert prepare_toys(root, data_dir)
    assert len(open_records(data_dir, "small", "toys", "train")) == 7


@pytest.mark.parametrize("images_per_shard", [1, 2, 2048])
def test_skip_corrupt_leaves_out_and_lists_images(root, data_dir, monkeypatch, images_per_shard):
    monkeypatch.setattr(shards, "IMAGES_PER_SHARD", images_per_shard)
    for i, kind in enumerate(CORRUPTIONS):
        CORRUPTIONS[kind](root / f"images/toys/a/{i}.jpg")
    assert prepare_toys(root, data_dir, skip_corrupt=True)
    train = open_records(data_dir, "small", "toys", "train")
    assert train.image_ids.tolist() == [f"toys/a/{i}.jpg" for i in (4, 5, 6)]
    assert train.labels.values.tolist() == [1, 2, 0]
    assert train.read([2, 0]) == [(root / f"images/toys/a/{i}.jpg").read_bytes() for i in (6, 4)]
    skipped = writer.read_skipped_images(train.folder)
    assert [(split, path) for split, path, _ in skipped] == [
        ("train", f"toys/a/{i}.jpg") for i in range(4)
    ]
    rows = prepare.summarize(data_dir, "small", ["toys"])
    num_skipped = {row.split: row.num_skipped for row in rows}
    assert num_skipped == {"train": 4, "val": 0, "test": 0, "index": 0}
    assert prepare.verify_records(train.folder, "toys") == 3 + 2 + 2 + 3


def test_split_without_a_decodable_image_is_refused(root, data_dir):
    for file in (root / "images/toys/b").iterdir():
        file.unlink()
    with pytest.raises(UserError, match="no image of split 'val'"):
        prepare_toys(root, data_dir, skip_corrupt=True)


def test_other_options_than_those_prepared_are_refused(tmp_path):
    for i in range(6):
        write_image(tmp_path / f"zoo/{i // 2}/{i}.png", i)
    arguments = {"data_dir": tmp_path / "data"}
    builder = prepare.make_builder("folder", "zoo", **arguments)
    assert prepare.prepare(builder, tmp_path / "zoo")
    other = prepare.make_builder("folder", "zoo", {"seed": 1}, **arguments)
    with pytest.raises(UserError, match=r"--seed=0.*--seed=1"):
        prepare.prepare(other, tmp_path / "zoo")


def test_wrong_names_and_options_are_refused(tmp_path):
    with pytest.raises(UserError, match="my images"):
        prepare.make_builder("my images", "a", data_dir=tmp_path)
    with pytest.raises(UserError, match=r"--domains=card.*cars, sop"):
        prepare.list_domains("uned", tmp_path, ["card"])
    with pytest.raises(UserError, match=r"--max_per_class.*guie"):
        prepare.make_builder("uned", "cars", {"max_per_class": 3}, data_dir=tmp_path)


@pytest.fixture
def prepared(root, data_dir):
    prepare_toys(root, data_dir)
    return dataset_dir(data_dir, "small", "toys")


def test_verify_counts_the_records(prepared):
    assert prepare.verify_records(prepared, "toys") == 14


def damage_records(folder: Path):
    file = next(folder.glob("*train.tfrecord*"))
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(64)
    file.write_bytes(data)


def truncate_records(folder: Path):
    file = next(folder.glob("*train.tfrecord*"))
    file.write_bytes(file.read_bytes()[:1000])


def remove_records(folder: Path):
    next(folder.glob("*train.tfrecord*")).unlink()


def rewrite_table(folder: Path, labels, lengths=None):
    train = records.Records(folder, "toys", "train")
    lengths = train.lengths if lengths is None else lengths
    labels = Labels.from_rows(labels)
    records.write_record_table(folder, "train", labels, train.image_ids[: len(labels)], [lengths])


def swap_labels(folder: Path):
    rewrite_table(folder, [0, 1, 2, 0, 1, 2, 1])


def remove_a_label(folder: Path):
    rewrite_table(folder, [0] * 6)


def move_records(folder: Path):
    """All places but the first and the last are wrong; the shard's size is right."""
    lengths = records.Records(folder, "toys", "train").lengths
    rewrite_table(folder, [0, 1, 2, 0, 1, 2, 0], lengths + np.array([8, 0, 0, 0, 0, 0, -8]))


def remove_table(folder: Path):
    (folder / "records-train.npz").unlink()


def truncate_table(folder: Path):
    file = folder / "records-train.npz"
    file.write_bytes(file.read_bytes()[:-100])


def damage_info(folder: Path):
    (folder / "dataset_info.json").write_text(json.dumps({"name": "x"})[:5])


@pytest.mark.parametrize(
    "damage",
    [
        damage_records,
        truncate_records,
        remove_records,
        swap_labels,
        remove_a_label,
        move_records,
        remove_table,
        truncate_table,
        damage_info,
    ],
)
def test_verify_finds_damage(prepared, damage):
    damage(prepared)
    with pytest.raises(UserError, match=r"prepare (it|the dataset) again") as caught:
        prepare.verify_records(prepared, "toys")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (truncate_records, r"small-train.tfrecord-00000-of-00001 has 1,000 bytes, not 7,598"),
        (remove_records, r"small-train.tfrecord-00000-of-00001 is missing"),
        (remove_a_label, r"records-train.npz has places of 7 records and labels of 6"),
        (remove_table, r"records-train.npz is missing"),
        (truncate_table, r"records-train.npz cannot be read"),
    ],
)
def test_damaged_split_is_not_opened(prepared, damage, words):
    damage(prepared)
    with pytest.raises(UserError, match=words):
        open_records(prepared.parent.parent.parent, "small", "toys", "train")
    assert len(open_records(prepared.parent.parent.parent, "small", "toys", "test")) == 2


def test_record_that_is_not_at_its_place_is_not_read(prepared):
    move_records(prepared)
    with pytest.raises(UserError, match=r"has no record of \d+ bytes at byte \d+"):
        records.Records(prepared, "toys", "train").read([3])
