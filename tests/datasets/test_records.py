"""Prepared images are read back, bytes, labels and ids, from any thread and process."""

import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.helpers.layouts import write_small_dataset
from universal_embedding.datasets import prepare
from universal_embedding.datasets.records import (
    dataset_dir,
    has_split,
    list_prepared_domains,
    list_splits,
    open_query_and_index,
    open_records,
)
from universal_embedding.datasets.uned import UnedLayoutBuilder
from universal_embedding.errors import UserError


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """(manual folder, data_dir) with dataset `small` prepared."""
    root = write_small_dataset(tmp_path_factory.mktemp("manual"))
    data_dir = tmp_path_factory.mktemp("data")
    for domain in ("toys", "birds"):
        assert prepare.prepare(UnedLayoutBuilder("small", domain, data_dir=data_dir), root)
    return root, data_dir


def test_prepared_domains_and_splits_are_listed(prepared):
    _, data_dir = prepared
    assert list_prepared_domains(data_dir, "small") == ["birds", "toys"]
    assert has_split(data_dir, "small", "toys", "index")
    assert not has_split(data_dir, "small", "birds", "val")


def test_records_have_the_original_bytes_labels_and_ids(prepared):
    root, data_dir = prepared
    records = open_records(data_dir, "small", "toys", "train")
    assert len(records) == 7
    assert records.image_ids.tolist() == [f"toys/a/{i}.jpg" for i in range(7)]
    assert records.labels.values.tolist() == [0, 1, 2, 0, 1, 2, 0]
    indices = [5, 0, 0, 6]
    expected = [(root / "images" / records.image_ids[i]).read_bytes() for i in indices]
    assert records.read(indices) == expected
    assert records.read(np.array(indices)) == expected
    assert records.read([]) == []


def test_selected_records_are_records_of_their_own(prepared):
    records = open_records(prepared[1], "small", "toys", "train")
    selected = records.select(np.array([5, 0, 3])).select(np.array([2, 0]))
    for copy in (selected, pickle.loads(pickle.dumps(selected))):
        assert len(copy) == 2 and copy.read([0, 1]) == records.read([3, 5])
        assert copy.labels.values.tolist() == [0, 2]
        assert copy.image_ids.tolist() == ["toys/a/3.jpg", "toys/a/5.jpg"]
    assert len(records) == 7 and len(pickle.loads(pickle.dumps(records))) == 7


def test_an_image_may_have_several_labels(prepared):
    records = open_records(prepared[1], "small", "toys", "test")
    assert [records.labels[i].tolist() for i in range(2)] == [[20, 21], [20]]


def test_query_and_index_are_opened_together(prepared):
    queries, index = open_query_and_index(prepared[1], "small", "toys", "test")
    assert (queries.split, index.split) == ("test", "index")
    assert open_query_and_index(prepared[1], "small", "toys", "val")[1] is None
    assert open_query_and_index(prepared[1], "small", "birds", "test")[1] is None


def test_pickled_records_are_read_from_threads(prepared):
    records = open_records(prepared[1], "small", "toys", "train")
    copy = pickle.loads(pickle.dumps(records))
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda i: copy.read([i % 7])[0], range(200)))
    assert read == [records.read([i % 7])[0] for i in range(200)]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("nothing", "toys", "train"), "universal-embedding prepare"),
        (("small", "fish", "train"), "birds, toys"),
        (("small", "birds", "val"), "train, test"),
    ],
)
def test_missing_records_are_an_error(prepared, arguments, words):
    with pytest.raises(UserError, match=words):
        open_records(prepared[1], *arguments)


def test_train_split_has_no_queries(prepared):
    with pytest.raises(UserError, match="val or test"):
        open_query_and_index(prepared[1], "small", "toys", "train")


@pytest.fixture
def old_version(prepared, tmp_path):
    """data_dir with domain `toys` as version 2.0.0 and `birds` as the current version."""
    data_dir = tmp_path / "data"
    shutil.copytree(prepared[1], data_dir)
    (data_dir / "small/toys/3.0.0").rename(data_dir / "small/toys/2.0.0")
    return data_dir


def test_prepared_version_is_3(prepared):
    assert dataset_dir(prepared[1], "small", "toys").name == "3.0.0"


def test_version_2_alone_is_refused_in_one_line(old_version):
    for attempt in (
        lambda: open_records(old_version, "small", "toys", "train"),
        lambda: open_query_and_index(old_version, "small", "toys", "test"),
        lambda: list_splits(old_version, "small", "toys"),
        lambda: list_prepared_domains(old_version, "small"),
    ):
        with pytest.raises(UserError) as caught:
            attempt()
        message = str(caught.value)
        assert str(old_version / "small/toys/2.0.0") in message
        assert "prepare it again: universal-embedding prepare" in message
        assert "--domains=toys" in message and "\n" not in message
    assert len(open_records(old_version, "small", "birds", "test")) == 2


def test_version_3_is_prepared_beside_version_2(old_version, prepared):
    builder = UnedLayoutBuilder("small", "toys", data_dir=old_version)
    assert prepare.prepare(builder, prepared[0])
    assert list_prepared_domains(old_version, "small") == ["birds", "toys"]
    assert dataset_dir(old_version, "small", "toys").name == "3.0.0"
    assert not prepare.prepare(builder, prepared[0])
