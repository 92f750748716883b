import hashlib
import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from support.fake_records import FakeRecords, domains, encoded

from universal_embedding.errors import UserError
from universal_embedding.input.decoding import decode
from universal_embedding.input.draws import Draws
from universal_embedding.input.pictures import PictureOptions
from universal_embedding.input.pipeline import evaluation_batches, training_batches
from universal_embedding.input.resizing import resize

SIZES = {"a": 7, "b": 9}
SMALL = PictureOptions(size=16)


def take(n, start_step=0, pictures=SMALL, hosts=1, host=0, **settings):
    records = domains(SIZES)
    draws = Draws(records, **{"batch_size": 6, "seed": 1, **settings})
    batches = training_batches(records, draws, pictures, start_step, hosts, host)
    return list(itertools.islice(batches.as_numpy_iterator(), n))


def assert_equal(got, expected):
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def test_batches_are_the_draws():
    records = domains(SIZES)
    draws = Draws(records, 6, mixed=True)
    whole = PictureOptions(size=16, crop="none", flip=False)
    batches = training_batches(records, draws, whole, start_step=4)
    assert {n: tuple(s.shape) for n, s in batches.element_spec.items()} == {
        "image": (6, 16, 16, 3),
        "label": (6,),
        "domain": (6,),
    }
    for step, batch in zip(range(4, 8), batches.as_numpy_iterator(), strict=False):
        draw = draws.at(step)
        np.testing.assert_array_equal(batch["domain"], draw.domain)
        np.testing.assert_array_equal(batch["label"], draw.record % 4)  # ids 100, 107, 114, 121
        for i, (d, r) in enumerate(zip(draw.domain, draw.record, strict=True)):
            image = resize(decode(records["ab"[d]].contents[r]), 16)
            np.testing.assert_array_equal(batch["image"][i], image)


@pytest.mark.parametrize("hosts", [2, 3, 4, 6])
def test_hosts_share_the_batch(hosts):
    one = take(3, mixed=True)
    parts = [take(3, mixed=True, hosts=hosts, host=h) for h in range(hosts)]
    for step, batch in enumerate(one):
        for name in batch:
            union = np.concatenate([part[step][name] for part in parts])
            np.testing.assert_array_equal(union, batch[name])


@pytest.mark.parametrize("start", [1, 5])
def test_restart(start):
    assert_equal(take(3, start), take(start + 3)[start:])


def test_restart_far_away():
    assert_equal(take(1, 10**6 + 1), take(2, 10**6)[1:])


def digest(batches):
    return hashlib.sha256(b"".join(b["image"].tobytes() for b in batches)).hexdigest()


def test_two_processes_agree():
    script = "import test_pipeline as t; print(t.digest(t.take(3)))"
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent.parent)])
    other = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout.strip() == digest(take(3))


def test_hosts_that_do_not_fit():
    with pytest.raises(UserError, match="host 2 of 2"):
        take(1, hosts=2, host=2)
    with pytest.raises(UserError, match="host 0 of 7"):
        take(1, hosts=7)


def test_several_labels_are_refused():
    records = {"a": FakeRecords("a", [encoded()] * 2, [[1, 2], [1]])}
    with pytest.raises(UserError, match="several labels"):
        training_batches(records, Draws(records, 2), SMALL)


@pytest.mark.parametrize("total", [1, 4, 6])
def test_evaluation_reads_each_record_once(total):
    records = domains({"a": total})["a"]
    batches = list(evaluation_batches(records, 4, 16, "crop").as_numpy_iterator())
    assert {len(b["mask"]) for b in batches} == {4}
    masks = np.concatenate([b["mask"] for b in batches])
    numbers = np.concatenate([b["number"] for b in batches])
    images = np.concatenate([b["image"] for b in batches])
    assert numbers[masks].tolist() == list(range(total))
    for image, contents in zip(images[masks], records.contents, strict=True):
        np.testing.assert_array_equal(image, resize(decode(contents), 16, "crop"))
    assert (images[~masks] == 127.5).all()
    assert evaluation_batches(records, 4, 16).element_spec["image"].shape == (4, 16, 16, 3)


def test_evaluation_of_nothing():
    assert list(evaluation_batches(FakeRecords("a", []), 4, 16)) == []


def test_dtypes():
    batch = take(1)[0]
    assert {n: v.dtype for n, v in batch.items()} == {
        "image": np.float32,
        "label": np.int32,
        "domain": np.int32,
    }
    assert tf.reduce_min(batch["image"]) >= 0
    assert tf.reduce_max(batch["image"]) <= 255
