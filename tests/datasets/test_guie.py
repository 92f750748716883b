"""The challenge's training sets in miniature, from their raw layouts."""

import csv

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tests.helpers.layouts import write_image
from universal_embedding.datasets import prepare
from universal_embedding.datasets.guie import Guie, GuieConfig
from universal_embedding.datasets.records import open_records
from universal_embedding.errors import UserError

SMALL = GuieConfig(max_per_class=4, landmark_classes=3)
LANDMARK_SIZES = {"203": 5, "17": 2, "9": 7, "1000": 5, "44": 1}


def write_csv(file, header, rows):
    with file.open("w", newline="") as lines:
        csv.writer(lines).writerows([header, *rows])


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("raw")
    for name, count in (("n01440764", 6), ("n01443537", 3), ("n15075141", 9)):
        for i in range(count):
            write_image(root / f"imagenet/{name}/{name}_{i}.JPEG", i)
    rows = [(f"{i}.jpg", (0, 2, 10)[i % 3], 1) for i in range(15)]
    for name, *_ in rows:
        write_image(root / f"products10k/train/{name}", 7)
    write_csv(root / "products10k/train.csv", ("name", "class", "group"), rows)
    rows = [
        (f"{int(c):08x}{i:08x}"[::-1], c)
        for c, count in LANDMARK_SIZES.items()
        for i in range(count)
    ]
    for name, _ in rows:
        write_image(root / f"landmarks2021/train/{name[0]}/{name[1]}/{name[2]}/{name}.jpg", 8)
    write_csv(root / "landmarks2021/train.csv", ("id", "landmark_id"), rows)
    return root


def prepare_source(root, data_dir, key, config=SMALL):
    builder = Guie(key, data_dir=data_dir, guie_config=config, allow_partial=True)
    assert prepare.prepare(builder, root)
    return [open_records(data_dir, "guie", key, split) for split in ("train", "val")]


def count_labels(splits):
    labels = np.concatenate([split.labels.values for split in splits])
    return dict(zip(*(a.tolist() for a in np.unique(labels, return_counts=True)), strict=True))


def test_imagenet_is_sampled_and_split(root, tmp_path):
    splits = prepare_source(root, tmp_path, "imagenet")
    assert count_labels(splits) == {0: 4, 1: 3, 2: 4}
    assert len(splits[1]) == 1  # a tenth of eleven
    assert splits[0].class_names == {0: "n01440764", 1: "n01443537", 2: "n15075141"}
    examples = tfds.load("guie/imagenet", data_dir=tmp_path, split="train", download=False)
    ids = [e["image_id"].decode() for e in examples.as_numpy_iterator()]
    assert ids == splits[0].image_ids.tolist()
    first = splits[0].image_ids[0]
    assert splits[0].read([0]) == [(root / "imagenet" / first).read_bytes()]


def test_products_follow_imagenet(root, tmp_path):
    assert count_labels(prepare_source(root, tmp_path, "products10k")) == {
        1000: 4,
        1001: 4,
        1002: 4,
    }


def test_most_frequent_landmarks_follow_products(root, tmp_path):
    splits = prepare_source(root, tmp_path, "landmarks2021")
    assert count_labels(splits) == {10691: 4, 10692: 4, 10693: 4}
    assert splits[0].class_names == {10691: "9", 10692: "203", 10693: "1000"}


def test_images_are_a_function_of_the_seed(root, tmp_path):
    def ids(folder, seed):
        config = GuieConfig(max_per_class=4, seed=seed)
        train, val = prepare_source(root, tmp_path / folder, "imagenet", config)
        return train.image_ids.tolist(), val.image_ids.tolist()

    assert ids("a", 3) == ids("b", 3) != ids("c", 4)


def test_disjoint_classes_of_val_are_not_in_train(root, tmp_path):
    config = GuieConfig(max_per_class=4, val_fraction=0.34, disjoint_classes=True)
    train, val = prepare_source(root, tmp_path, "imagenet", config)
    assert len(np.unique(val.labels.values)) == 1
    assert not set(train.labels.values) & set(val.labels.values)


def test_missing_classes_are_an_error(root, tmp_path):
    with pytest.raises(UserError, match=r"3 classes, expected 1,000.*--allow_partial"):
        prepare.prepare(Guie("imagenet", data_dir=tmp_path), root)


def test_missing_folder_gives_instructions(tmp_path):
    (tmp_path / "products10k").mkdir()
    with pytest.raises(UserError, match=r"imagenet is not a directory.*https://www.image-net.org"):
        prepare.prepare(Guie("imagenet", data_dir=tmp_path / "data"), tmp_path)


@pytest.mark.parametrize("content, words", [(None, "missing"), ("a,b\n1,2\n", "columns")])
def test_invalid_csv_is_refused(tmp_path, content, words):
    (tmp_path / "products10k").mkdir()
    if content:
        (tmp_path / "products10k/train.csv").write_text(content)
    with pytest.raises(UserError, match=words):
        prepare.prepare(Guie("products10k", data_dir=tmp_path / "data"), tmp_path)
