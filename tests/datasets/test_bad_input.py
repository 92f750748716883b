"""Everything that can be wrong with the input: an error that names it, and nothing half-written."""

import json
from pathlib import Path

import pytest
from layouts import picture, small_tree

from universal_embedding.datasets import catalogue, generation, preparation, shards, verification
from universal_embedding.datasets.info_files import domain_keys
from universal_embedding.datasets.records import open_records, prepared_domains, prepared_folder
from universal_embedding.errors import UserError


@pytest.fixture
def root(tmp_path):
    return small_tree(tmp_path / "manual")


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "data"


def prepare(root: Path, data_dir: Path, **options) -> bool:
    builder = catalogue.builder("small", "toys", data_dir=data_dir, **options)
    return preparation.prepare(builder, root)


def assert_refused(root: Path, data_dir: Path, *words: str):
    """The preparation fails with these words, leaves nothing, and works once it is put right."""
    with pytest.raises(UserError) as caught:
        prepare(root, data_dir)
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)
    assert not list(data_dir.rglob("*record*"))
    with pytest.raises(UserError, match=r"tools/prepare.py"):
        prepared_domains(data_dir, "small")


def test_missing_info_files(tmp_path):
    with pytest.raises(UserError, match="info_files is no folder"):
        domain_keys(tmp_path / "info_files")
    (tmp_path / "info_files").mkdir()
    with pytest.raises(UserError, match="holds no domain"):
        domain_keys(tmp_path / "info_files")


def test_missing_picture_folder(root, data_dir):
    (root / "images").rename(root / "pictures")
    assert_refused(root, data_dir, str(root / "images"), "missing")


def test_no_split(root, data_dir):
    for file in (root / "info_files/toys").iterdir():
        file.unlink()
    assert_refused(root, data_dir, "neither train.json nor test.json")


@pytest.mark.parametrize(
    "content, words",
    [
        ("", ["no JSON"]),
        ('[{"path": "a.jpg", ', ["no JSON"]),
        ("<html>404</html>", ["no JSON"]),
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
def test_info_file(root, data_dir, content, words):
    file = root / "info_files/toys/val.json"
    file.write_text(content)
    assert_refused(root, data_dir, "toys", "val", *words)


def test_info_file_of_other_encoding(root, data_dir):
    file = root / "info_files/toys/val.json"
    file.write_bytes('[{"path": "caf\u00e9.jpg"}]'.encode("latin-1"))
    assert_refused(root, data_dir, str(file), "UTF-8")


def test_class_names(root, data_dir):
    file = root / "info_files/toys/class_names.json"
    file.write_text('{"dog": 1}')
    assert_refused(root, data_dir, str(file))


BROKEN = {
    "missing": lambda file: file.unlink(),
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:300]),
    "empty": lambda file: file.write_bytes(b""),
    "no picture": lambda file: file.write_text("<html>not found</html>"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_picture(root, data_dir, kind):
    file = root / "images/toys/a/4.jpg"
    before = file.read_bytes()
    BROKEN[kind](file)
    assert_refused(root, data_dir, str(file), kind, "--skip_broken")
    file.write_bytes(before)
    assert prepare(root, data_dir)
    assert len(open_records(data_dir, "small", "toys", "train")) == 7


@pytest.mark.parametrize("pictures_per_shard", [1, 2, 2048])
def test_skip_broken(root, data_dir, monkeypatch, pictures_per_shard):
    monkeypatch.setattr(shards, "PICTURES_PER_SHARD", pictures_per_shard)
    for number, kind in enumerate(BROKEN):
        BROKEN[kind](root / f"images/toys/a/{number}.jpg")
    assert prepare(root, data_dir, skip_broken=True)
    records = open_records(data_dir, "small", "toys", "train")
    assert records.image_ids.tolist() == [f"toys/a/{i}.jpg" for i in (4, 5, 6)]
    assert records.labels.values.tolist() == [1, 2, 0]
    assert records.read([2, 0]) == [(root / f"images/toys/a/{i}.jpg").read_bytes() for i in (6, 4)]
    skipped = generation.read_skipped(records.folder)
    assert [(split, path) for split, path, _ in skipped] == [
        ("train", f"toys/a/{i}.jpg") for i in range(4)
    ]
    rows = preparation.summary(data_dir, "small", ["toys"])
    assert {row.split: row.skipped for row in rows} == {"train": 4, "val": 0, "test": 0, "index": 0}
    assert verification.verify(records.folder, "toys") == 3 + 2 + 2 + 3


def test_nothing_left_of_a_split(root, data_dir):
    for file in (root / "images/toys/b").iterdir():
        file.unlink()
    with pytest.raises(UserError, match="no picture of split 'val'"):
        prepare(root, data_dir, skip_broken=True)


def test_interrupted(root, data_dir, monkeypatch):
    real, calls = shards.write, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(shards, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(root, data_dir)
    assert not list(data_dir.rglob("*record*"))
    monkeypatch.undo()
    assert prepare(root, data_dir)
    assert not prepare(root, data_dir)


def test_other_options_than_before(tmp_path):
    for number in range(6):
        picture(tmp_path / f"zoo/{number // 2}/{number}.png", number)
    arguments = {"data_dir": tmp_path / "data"}
    assert preparation.prepare(catalogue.builder("folder", "zoo", **arguments), tmp_path / "zoo")
    other = catalogue.builder("folder", "zoo", {"seed": 1}, **arguments)
    with pytest.raises(UserError, match=r"--seed=0.*--seed=1"):
        preparation.prepare(other, tmp_path / "zoo")


def test_wrong_names(tmp_path):
    with pytest.raises(UserError, match="my pictures"):
        catalogue.builder("my pictures", "a", data_dir=tmp_path)
    with pytest.raises(UserError, match=r"--domains=card.*cars, sop"):
        catalogue.domain_keys("uned", tmp_path, ["card"])
    with pytest.raises(UserError, match=r"--max_per_class.*guie"):
        catalogue.builder("uned", "cars", {"max_per_class": 3}, data_dir=tmp_path)


@pytest.fixture
def prepared(root, data_dir):
    prepare(root, data_dir)
    return prepared_folder(data_dir, "small", "toys")


def test_verify(prepared):
    assert verification.verify(prepared, "toys") == 14


def damage_records(folder: Path):
    file = next(folder.glob("*train.array_record*"))
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(64)
    file.write_bytes(data)


def truncate_records(folder: Path):
    file = next(folder.glob("*train.array_record*"))
    file.write_bytes(file.read_bytes()[:1000])


def lose_records(folder: Path):
    next(folder.glob("*train.array_record*")).unlink()


def exchange_labels(folder: Path):
    from universal_embedding.datasets import sidecars
    from universal_embedding.datasets.labels import Labels

    ids = sidecars.read_image_ids(folder, "train")
    sidecars.write(folder, "train", Labels.of([0, 1, 2, 0, 1, 2, 1]), ids)


def lose_a_label(folder: Path):
    from universal_embedding.datasets import sidecars
    from universal_embedding.datasets.labels import Labels

    ids = sidecars.read_image_ids(folder, "train")
    sidecars.write(folder, "train", Labels.of([0] * 6), ids[:6])


def damage_info(folder: Path):
    (folder / "dataset_info.json").write_text(json.dumps({"name": "x"})[:5])


@pytest.mark.parametrize(
    "damage",
    [damage_records, truncate_records, lose_records, exchange_labels, lose_a_label, damage_info],
)
def test_verify_finds_damage(prepared, damage):
    damage(prepared)
    with pytest.raises(UserError, match=r"prepare it again"):
        verification.verify(prepared, "toys")
