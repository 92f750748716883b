"""Folders of classes and CSV files: split by class, the same way for the same seed."""

import numpy as np
import pytest
from layouts import picture

from universal_embedding.datasets import catalogue, preparation
from universal_embedding.datasets.records import has_split, open_records, query_and_index
from universal_embedding.errors import UserError

CLASSES = [f"class {letter}" for letter in "abcdefghij"]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    root = tmp_path_factory.mktemp("manual") / "zoo"
    for number, name in enumerate(CLASSES):
        for i in range(4):
            picture(root / name / f"part{i % 2}" / f"{i}.png", 4 * number + i)
    (root / ".cache").mkdir()
    (root / CLASSES[0] / ".DS_Store").write_text("x")
    return root


def prepared(root, data_dir, **options):
    builder = catalogue.builder("folder", root.name, options, data_dir=data_dir)
    assert preparation.prepare(builder, root)
    return lambda split: open_records(data_dir, "folder", root.name, split)


def test_split_by_class(zoo, tmp_path):
    split = prepared(zoo, tmp_path)
    records = {name: split(name) for name in ("train", "val", "test")}
    classes = {name: set(r.labels.values.tolist()) for name, r in records.items()}
    assert [len(c) for c in classes.values()] == [7, 1, 2]
    assert set.union(*classes.values()) == set(range(10))
    assert sum(map(len, records.values())) == 40
    for r in records.values():
        for image_id, label in zip(r.image_ids, r.labels.values, strict=True):
            assert r.class_names[label] == image_id.split("/")[0]
    assert query_and_index(tmp_path, "folder", "zoo", "test")[1] is None


def test_seed_and_shares(zoo, tmp_path):
    def test_ids(folder, seed):
        split = prepared(zoo, tmp_path / folder, seed=seed, val_fraction=0.0, test_fraction=0.5)
        assert not has_split(tmp_path / folder, "folder", "zoo", "val")
        return split("test").image_ids.tolist()

    assert test_ids("a", 5) == test_ids("b", 5) != test_ids("c", 6)


def test_own_index(zoo, tmp_path):
    split = prepared(zoo, tmp_path, index_fraction=0.3)
    queries, index = split("test"), split("index")
    assert np.unique(queries.labels.values, return_counts=True)[1].tolist() == [3, 3]
    assert np.unique(index.labels.values, return_counts=True)[1].tolist() == [1, 1]
    assert not set(queries.image_ids) & set(index.image_ids)


@pytest.mark.parametrize("header, columns", [("path,label,split", 3), ("path,label", 2)])
def test_csv(zoo, tmp_path, header, columns):
    rows = [
        (f"{name}/part0/0.png", str(7 * number), "test" if number > 6 else "train")
        for number, name in enumerate(CLASSES)
    ]
    file = tmp_path / "labels.csv"
    file.write_text("\n".join([header, *(",".join(row[:columns]) for row in rows)]))
    split = prepared(zoo, tmp_path / "data", csv=str(file))
    train, test = split("train"), split("test")
    if columns == 3:
        assert train.labels.values.tolist() == [0, 7, 14, 21, 28, 35, 42]
        assert test.image_ids.tolist() == [row[0] for row in rows[7:]]
    assert len(train) == 7


@pytest.mark.parametrize(
    "content, words",
    [
        ("", "columns"),
        ("path,label\n", "lists no picture"),
        ("file,class\na,b\n", "file,class"),
        ("path,label\na.png\n", "line 2.*incomplete"),
        ("path,label\na.png,b,c\n", "line 2.*too long"),
        ("path,label,split\na.png,b,training\n", "line 2.*'training'"),
        ("path,label,split\na.png,b,train\na.png,b,train\n", "twice"),
        ("path,label\na.png,b\n", "too few"),
    ],
)
def test_bad_csv(zoo, tmp_path, content, words):
    file = tmp_path / "labels.csv"
    file.write_text(content)
    with pytest.raises(UserError, match=words):
        prepared(zoo, tmp_path / "data", csv=str(file))
    with pytest.raises(UserError, match="no file"):
        prepared(zoo, tmp_path / "data", csv=str(tmp_path / "nothing.csv"))


def test_bad_folders(tmp_path):
    root = tmp_path / "shop"
    root.mkdir()
    with pytest.raises(UserError, match="is empty"):
        prepared(root, tmp_path / "data")
    picture(root / "a/0.png")
    with pytest.raises(UserError, match="too few"):
        prepared(root, tmp_path / "data")
    (root / "b").mkdir()
    with pytest.raises(UserError, match="b holds no picture"):
        prepared(root, tmp_path / "data")
    picture(root / "loose.png")
    with pytest.raises(UserError, match=r"loose.png stands beside"):
        prepared(root, tmp_path / "data")
