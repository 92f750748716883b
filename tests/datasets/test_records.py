"""What was prepared comes back: bytes, labels, ids, from any thread and process."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from layouts import small_tree

from universal_embedding.datasets import preparation
from universal_embedding.datasets.records import (
    has_split,
    open_records,
    prepared_domains,
    query_and_index,
)
from universal_embedding.datasets.trees import tree_builder
from universal_embedding.errors import UserError


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """(manual folder, data_dir) with data set `small` prepared."""
    root = small_tree(tmp_path_factory.mktemp("manual"))
    data_dir = tmp_path_factory.mktemp("data")
    for domain in ("toys", "birds"):
        assert preparation.prepare(tree_builder("small", domain, data_dir=data_dir), root)
    return root, data_dir


def test_domains_and_splits(place):
    _, data_dir = place
    assert prepared_domains(data_dir, "small") == ["birds", "toys"]
    assert has_split(data_dir, "small", "toys", "index")
    assert not has_split(data_dir, "small", "birds", "val")


def test_bytes_labels_ids(place):
    root, data_dir = place
    records = open_records(data_dir, "small", "toys", "train")
    assert len(records) == 7
    assert records.image_ids.tolist() == [f"toys/a/{i}.jpg" for i in range(7)]
    assert records.labels.values.tolist() == [0, 1, 2, 0, 1, 2, 0]
    numbers = [5, 0, 0, 6]
    expected = [(root / "images" / records.image_ids[n]).read_bytes() for n in numbers]
    assert records.read(numbers) == expected
    assert records.read(np.array(numbers)) == expected
    assert records.read([]) == []


def test_several_labels(place):
    records = open_records(place[1], "small", "toys", "test")
    assert [records.labels[i].tolist() for i in range(2)] == [[20, 21], [20]]


def test_query_and_index(place):
    queries, index = query_and_index(place[1], "small", "toys", "test")
    assert (queries.split, index.split) == ("test", "index")
    assert query_and_index(place[1], "small", "toys", "val")[1] is None
    assert query_and_index(place[1], "small", "birds", "test")[1] is None


def test_threads_and_pickles(place):
    records = open_records(place[1], "small", "toys", "train")
    copy = pickle.loads(pickle.dumps(records))
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda i: copy.read([i % 7])[0], range(200)))
    assert read == [records.read([i % 7])[0] for i in range(200)]


def test_sidecar_is_rebuilt(place):
    before = open_records(place[1], "small", "toys", "test")
    next(place[1].glob("small/toys/*/labels-test.npz")).unlink()
    after = open_records(place[1], "small", "toys", "test")
    assert after.image_ids.tolist() == before.image_ids.tolist()
    assert after.labels.values.tolist() == before.labels.values.tolist()
    assert after.labels.splits.tolist() == before.labels.splits.tolist()


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("nothing", "toys", "train"), "tools/prepare.py"),
        (("small", "fish", "train"), "birds, toys"),
        (("small", "birds", "val"), "train, test"),
    ],
)
def test_missing(place, arguments, words):
    with pytest.raises(UserError, match=words):
        open_records(place[1], *arguments)


def test_queries_of_train(place):
    with pytest.raises(UserError, match="val or test"):
        query_and_index(place[1], "small", "toys", "train")
