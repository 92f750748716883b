import dataclasses
import hashlib
import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from support.fake_records import FakeRecords, domains, encoded

from universal_embedding.errors import UserError
from universal_embedding.input.batching import naming_pictures
from universal_embedding.input.decoding import decode
from universal_embedding.input.draws import Draws
from universal_embedding.input.pictures import PictureOptions
from universal_embedding.input.pipeline import evaluation_batches, host_slice, training_batches
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
    path = os.pathsep.join(map(str, [here, *here.parents[:2]]))
    other = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout.strip() == digest(take(3))


@given(st.integers(1, 5000), st.integers(1, 64), st.booleans())
def test_parts_of_hosts_are_the_batch_and_of_one_size(batch_size, hosts, pairs):
    whole = 1 + pairs
    if hosts > -(-batch_size // whole):
        with pytest.raises(UserError, match="each needs at least"):
            host_slice(batch_size, hosts, 0, pairs)
        return
    parts = [range(batch_size)[host_slice(batch_size, hosts, h, pairs)] for h in range(hosts)]
    assert [i for part in parts for i in part] == list(range(batch_size))
    assert all(part.start % whole == 0 for part in parts)
    units = [-(-len(part) // whole) for part in parts]
    assert max(units) - min(units) <= 1


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
    assert (images[~masks] == 127).all()
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


def broken(at, total=20):
    contents = [encoded(seed=i) for i in range(total)]
    for i in at:
        contents[i] = b"\xff\xd8\xff not a picture" if i % 2 else contents[i][:200]
    return FakeRecords("ships", contents, split="test")


@pytest.mark.parametrize("at", [[13], [12], [19], list(range(10, 20))])
def test_evaluation_names_a_broken_picture(at):
    with (
        pytest.raises(UserError, match=f"'ships/{at[0]}.jpg' of domain 'ships', split 'test'"),
        naming_pictures(),
    ):
        list(evaluation_batches(broken(at), 4, 16))


@pytest.mark.parametrize("at", [[13], list(range(12, 20))])
def test_training_names_a_broken_picture(at):
    records = {"ships": broken(at)}
    every = [Draws(records, 4, seed=seed) for seed in range(100)]
    draws = next(d for d in every if not set(d.at(0).record) & set(at))
    first = next(s for s in range(9) if set(draws.at(s).record) & set(at))
    batches = training_batches(records, draws, SMALL).as_numpy_iterator()
    for _ in range(first):  # those before it come whole
        next(batches)
    # Not `as error`: its traceback would hold `batches` in a cycle. A collection of garbage that
    # starts in a thread of `batches` would then wait for that thread, and no other could follow.
    named = "|".join(f"'ships/{i}.jpg' of domain 'ships'" for i in at)
    with pytest.raises(UserError, match=named), naming_pictures():
        next(batches)


def test_data_that_cannot_be_decoded_at_all():
    records = {"ships": broken(range(20))}
    with pytest.raises(UserError, match="of domain 'ships'"):
        training_batches(records, Draws(records, 4), SMALL)


def test_an_error_of_the_reader_is_raised():
    class Unreadable(FakeRecords):
        def read(self, numbers):
            if list(numbers) != [self.first]:
                raise OSError("the disk is gone")
            return super().read(numbers)

    records = Unreadable("a", [encoded()] * 8)
    draws = Draws({"a": records}, 4)
    records.first = int(draws.at(0).record[0])
    with pytest.raises(tf.errors.OpError, match="the disk is gone"):
        next(iter(training_batches({"a": records}, draws, SMALL)))
    with pytest.raises(tf.errors.OpError, match="the disk is gone"):
        next(iter(evaluation_batches(records, 4, 16)))


MIXED = PictureOptions(size=16, mixup=0.4, cutmix=1.0)


def test_mixing():
    plain = take(2, mixed=True)
    mixed = take(2, mixed=True, pictures=dataclasses.replace(MIXED, mixup=0.0))
    for before, after in zip(plain, mixed, strict=True):
        other = [1, 0, 3, 2, 5, 4]
        np.testing.assert_array_equal(after["label2"], before["label"][other])
        different = before["domain"] != before["domain"][other]
        assert (after["mix"][different] == 1).all()
        assert ((after["mix"] >= 0) & (after["mix"] <= 1)).all()
    assert mixed[0]["image"].shape == (6, 16, 16, 3)


@pytest.mark.parametrize("hosts", [2, 3])
def test_hosts_share_a_mixed_batch(hosts):
    one = take(3, pictures=MIXED)
    parts = [take(3, pictures=MIXED, hosts=hosts, host=h) for h in range(hosts)]
    assert any((batch["mix"] < 1).any() for batch in one)
    for step, batch in enumerate(one):
        for name in batch:
            union = np.concatenate([part[step][name] for part in parts])
            np.testing.assert_array_equal(union, batch[name])


def test_full_augmentation_restarts_exactly():
    everything = PictureOptions(
        size=16,
        brightness=0.4,
        contrast=0.4,
        saturation=0.4,
        hue=0.1,
        randaugment=1,
        cutout=0.3,
        mixup=0.2,
        cutmix=1.0,
    )
    assert_equal(take(1, 3, everything), take(4, 0, everything)[3:])
