"""Class folders and CSV files are split by class, the same way for the same seed."""

import numpy as np
import pytest

from tests.helpers.layouts import write_image
from universal_embedding.datasets import prepare
from universal_embedding.datasets.records import has_split, open_query_and_index, open_records
from universal_embedding.errors import UserError

CLASSES = [f"class {letter}" for letter in "abcdefghij"]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    root = tmp_path_factory.mktemp("manual") / "zoo"
    for class_id, name in enumerate(CLASSES):
        for i in range(4):
            write_image(root / name / f"part{i % 2}" / f"{i}.png", 4 * class_id + i)
    (root / ".cache").mkdir()
    (root / CLASSES[0] / ".DS_Store").write_text("x")
    return root


def prepare_folder(root, data_dir, **options):
    builder = prepare.make_builder("folder", root.name, options, data_dir=data_dir)
    assert prepare.prepare(builder, root)
    return lambda split: open_records(data_dir, "folder", root.name, split)


def test_splits_have_disjoint_classes(zoo, tmp_path):
    open_split = prepare_folder(zoo, tmp_path)
    records = {name: open_split(name) for name in ("train", "val", "test")}
    classes = {name: set(r.labels.values.tolist()) for name, r in records.items()}
    assert [len(c) for c in classes.values()] == [7, 1, 2]
    assert set.union(*classes.values()) == set(range(10))
    assert sum(map(len, records.values())) == 40
    for r in records.values():
        for image_id, label in zip(r.image_ids, r.labels.values, strict=True):
            assert r.class_names[label] == image_id.split("/")[0]
    assert open_query_and_index(tmp_path, "folder", "zoo", "test")[1] is None


def test_split_depends_on_seed_and_fractions(zoo, tmp_path):
    def test_ids(folder, seed):
        open_split = prepare_folder(
            zoo, tmp_path / folder, seed=seed, val_fraction=0.0, test_fraction=0.5
        )
        assert not has_split(tmp_path / folder, "folder", "zoo", "val")
        return open_split("test").image_ids.tolist()

    assert test_ids("a", 5) == test_ids("b", 5) != test_ids("c", 6)


def test_index_fraction_gives_a_separate_index(zoo, tmp_path):
    open_split = prepare_folder(zoo, tmp_path, index_fraction=0.3)
    queries, index = open_split("test"), open_split("index")
    assert np.unique(queries.labels.values, return_counts=True)[1].tolist() == [3, 3]
    assert np.unique(index.labels.values, return_counts=True)[1].tolist() == [1, 1]
    assert not set(queries.image_ids) & set(index.image_ids)


@pytest.mark.parametrize("header, columns", [("path,label,split", 3), ("path,label", 2)])
def test_csv_gives_labels_and_splits(zoo, tmp_path, header, columns):
    rows = [
        (f"{name}/part0/0.png", str(7 * i), "test" if i > 6 else "train")
        for i, name in enumerate(CLASSES)
    ]
    file = tmp_path / "labels.csv"
    file.write_text("\n".join([header, *(",".join(row[:columns]) for row in rows)]))
    open_split = prepare_folder(zoo, tmp_path / "data", csv=str(file))
    train, test = open_split("train"), open_split("test")
    if columns == 3:
        assert train.labels.values.tolist() == [0, 7, 14, 21, 28, 35, 42]
        assert test.image_ids.tolist() == [row[0] for row in rows[7:]]
    assert len(train) == 7


@pytest.mark.parametrize(
    "content, words",
    [
        ("", "columns"),
        ("path,label\n", "lists no images"),
        ("file,class\na,b\n", "file,class"),
        ("path,label\na.png\n", "line 2.*incomplete"),
        ("path,label\na.png,b,c\n", "line 2.*too long"),
        ("path,label,split\na.png,b,training\n", "line 2.*'training'"),
        ("path,label,split\na.png,b,train\na.png,b,train\n", "twice"),
        ("path,label\na.png,b\n", "too few"),
    ],
)
def test_invalid_csv_is_refused(zoo, tmp_path, content, words):
    file = tmp_path / "labels.csv"
    file.write_text(content)
    with pytest.raises(UserError, match=words):
        prepare_folder(zoo, tmp_path / "data", csv=str(file))
    with pytest.raises(UserError, match="not a file"):
        prepare_folder(zoo, tmp_path / "data", csv=str(tmp_path / "nothing.csv"))


def test_invalid_folders_are_refused(tmp_path):
    root = tmp_path / "shop"
    root.mkdir()
    with pytest.raises(UserError, match="is empty"):
        prepare_folder(root, tmp_path / "data")
    write_image(root / "a/0.png")
    with pytest.raises(UserError, match="too few"):
        prepare_folder(root, tmp_path / "data")
    (root / "b").mkdir()
    with pytest.raises(UserError, match="b has no images"):
        prepare_folder(root, tmp_path / "data")
    write_image(root / "loose.png")
    with pytest.raises(UserError, match=r"loose.png is a file beside"):
        prepare_folder(root, tmp_path / "data")
