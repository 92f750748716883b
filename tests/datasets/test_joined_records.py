"""Prepared data sets that are read as one: `OLD+NEW`."""

import pickle

import numpy as np
import pytest

from tests.helpers.layouts import write_uned_layout
from tests.helpers.processes import run_cli
from universal_embedding.datasets.joined_records import JoinedRecords
from universal_embedding.datasets.records import (
    list_prepared_domains,
    list_splits,
    open_query_and_index,
    open_records,
)
from universal_embedding.errors import UserError


def prepare(folder, dataset, domains, first=0):
    """Prepares train and val images of `domains`, `{domain: class ids of train}`."""
    for domain, ids in domains.items():
        train = [(f"{domain}/{dataset}/{i}.jpg", ids[i % len(ids)]) for i in range(8)]
        val = [(f"{domain}/{dataset}/v{i}.jpg", first + 90 + i % 2) for i in range(4)]
        splits = {"train": train, "val": val, "test": val[:0] or val}
        write_uned_layout(folder / dataset, domain, splits)
    flags = f"--manual_dir={folder / dataset}", f"--data_dir={folder / 'data'}"
    code, _, err = run_cli("prepare", *flags, f"--dataset={dataset}")
    assert code == 0, err[-2000:]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("joined")
    prepare(folder, "old", {"birds": [1, 2], "toys": [5]})
    prepare(folder, "new", {"birds": [2, 7], "kites": [1]}, first=2)
    return folder / "data"


def test_records_follow_one_another_and_keep_their_classes(data_dir):
    old, new = (open_records(data_dir, name, "birds", "train") for name in ("old", "new"))
    joined = open_records(data_dir, "old+new", "birds", "train")
    assert len(joined) == 16 and joined.part_sizes == (8, 8)
    assert joined.labels.values.tolist() == [*old.labels.values, *new.labels.values]
    assert joined.image_ids.tolist() == [*old.image_ids, *new.image_ids]
    order = [3, 12, 0, 9]
    expected = [old.read([3])[0], new.read([4])[0], old.read([0])[0], new.read([1])[0]]
    assert joined.read(order) == expected
    assert joined.select(np.array(order)).read([1, 3]) == [expected[1], expected[3]]
    again = pickle.loads(pickle.dumps(joined.select(np.array(order))))
    assert again.read(range(4)) == expected and again.part_sizes == (8, 8)


def test_domains_and_splits_are_those_of_all(data_dir):
    assert list_prepared_domains(data_dir, "old+new") == ["birds", "kites", "toys"]
    assert open_records(data_dir, "old+new", "toys", "train").part_sizes == (8, 0)
    assert open_records(data_dir, "old+new", "kites", "train").part_sizes == (0, 8)
    assert set(list_splits(data_dir, "old+new", "kites")) >= {"train", "val", "test"}
    queries, index = open_query_and_index(data_dir, "old+new", "birds", "val")
    assert len(queries) == 8 and index is None


def test_classes_with_names_are_matched_by_name(data_dir):
    old, new = (open_records(data_dir, name, "birds", "train") for name in ("old", "new"))
    old.class_names, new.class_names = {1: "owl", 2: "wren"}, {2: "owl", 7: "kite"}
    joined = JoinedRecords([old, new])
    assert joined.class_names == {1: "owl", 2: "wren", 3: "kite"}
    assert joined.labels.values.tolist() == [1, 2] * 4 + [1, 3] * 4
    assert new.labels.values.tolist() == [2, 7] * 4


def test_one_image_twice_is_refused(data_dir):
    old = open_records(data_dir, "old", "birds", "train")
    with pytest.raises(UserError, match=r"both have an image 'birds/old/0.jpg'"):
        JoinedRecords([old, old])
