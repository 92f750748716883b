import dataclasses
import functools
import hashlib
import itertools
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.fake_records import FakeRecords, encode_random_image, make_domains
from tests.helpers.processes import run
from universal_embedding.errors import UserError
from universal_embedding.input import pipeline
from universal_embedding.input.batch_sampler import BatchSampler
from universal_embedding.input.corrupt_images import report_corrupt_image
from universal_embedding.input.images import AugmentationConfig, decode
from universal_embedding.input.pipeline import (
    dense_labels,
    evaluation_batches,
    gather_rows,
    host_slice,
    record_batches,
    training_batches,
)
from universal_embedding.input.record_reader import RecordReader
from universal_embedding.input.resizing import resize

SIZES = {"a": 7, "b": 9}
SMALL = AugmentationConfig(size=16)
MIXING = AugmentationConfig(size=16, mixup=0.4, cutmix=1.0)


def take(n, start_step=0, augmentation=SMALL, num_hosts=1, host_id=0, **settings):
    records = make_domains(SIZES)
    sampler = BatchSampler(records, **{"batch_size": 6, "seed": 1, **settings})
    batches = training_batches(records, sampler, augmentation, start_step, num_hosts, host_id)
    return list(itertools.islice(batches.as_numpy_iterator(), n))


def assert_equal(batches, expected):
    assert len(batches) == len(expected)
    for a, b in zip(batches, expected, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def assert_hosts_split(batches, batches_by_host):
    for step, batch in enumerate(batches):
        for name in batch:
            union = np.concatenate([local[step][name] for local in batches_by_host])
            np.testing.assert_array_equal(union, batch[name])


def test_training_batches_hold_what_the_sampler_says():
    records = make_domains(SIZES)
    sampler = BatchSampler(records, 6, mixed=True)
    no_crop = AugmentationConfig(size=16, crop="none", flip=False)
    batches = training_batches(records, sampler, no_crop, start_step=4)
    assert {n: tuple(s.shape) for n, s in batches.element_spec.items()} == {
        "image": (6, 16, 16, 3),
        "label": (6,),
        "domain": (6,),
        "record": (6,),
    }
    for step, batch in zip(range(4, 8), batches.as_numpy_iterator(), strict=False):
        spec = sampler.batch_at(step)
        np.testing.assert_array_equal(batch["domain"], spec.domain)
        np.testing.assert_array_equal(batch["record"], spec.record)
        np.testing.assert_array_equal(batch["label"], spec.record % 4)  # ids 100, 107, 114, 121
        for i, (d, r) in enumerate(zip(spec.domain, spec.record, strict=True)):
            image = resize(decode(records["ab"[d]].images[r]), 16)
            np.testing.assert_array_equal(batch["image"][i], np.floor(image + 0.5))


@pytest.mark.parametrize("num_hosts", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_hosts_split_the_batch(num_hosts):
    by_host = [take(3, mixed=True, num_hosts=num_hosts, host_id=h) for h in range(num_hosts)]
    assert_hosts_split(take(3, mixed=True), by_host)


@pytest.mark.parametrize("start", [1, 5])
def test_batches_from_a_later_step_equal_those_in_sequence(start):
    assert_equal(take(3, start), take(start + 3)[start:])


def test_batches_from_a_far_step_equal_those_in_sequence():
    assert_equal(take(1, 10**6 + 1), take(2, 10**6)[1:])


def digest(batches):
    return hashlib.sha256(b"".join(b["image"].tobytes() for b in batches)).hexdigest()


@pytest.mark.slow
def test_batches_equal_those_of_another_process():
    script = "from tests.input import test_pipeline as t; print(t.digest(t.take(3)))"
    code, out, err = run("-c", script, PYTHONHASHSEED="7")
    assert code == 0, err
    assert out.strip() == digest(take(3))


@given(st.integers(1, 5000), st.integers(1, 64), st.booleans())
def test_host_slices_cover_the_batch_and_differ_by_at_most_one(batch_size, num_hosts, keep_pairs):
    unit = 1 + keep_pairs
    if num_hosts > -(-batch_size // unit):
        with pytest.raises(UserError, match="each needs at least"):
            host_slice(batch_size, num_hosts, 0, keep_pairs)
        return
    slices = [host_slice(batch_size, num_hosts, h, keep_pairs) for h in range(num_hosts)]
    positions = [range(batch_size)[local] for local in slices]
    assert [i for local in positions for i in local] == list(range(batch_size))
    assert all(local.start % unit == 0 for local in positions)
    units = [-(-len(local) // unit) for local in positions]
    assert max(units) - min(units) <= 1


def test_hosts_that_do_not_fit_are_an_error():
    with pytest.raises(UserError, match="host 2 of 2"):
        take(1, num_hosts=2, host_id=2)
    with pytest.raises(UserError, match="host 0 of 7"):
        take(1, num_hosts=7)


def test_several_labels_are_an_error():
    records = {"a": FakeRecords("a", [[1, 2], [1]], [encode_random_image()] * 2)}
    with pytest.raises(UserError, match="several labels"):
        training_batches(records, BatchSampler(records, 2), SMALL)
    with pytest.raises(UserError, match="several labels"):
        record_batches(records, BatchSampler(records, 2))


def test_records_of_other_domains_than_the_sampler_are_an_error():
    records = make_domains(SIZES)
    sampler = BatchSampler({"b": records["b"]}, 2)
    with pytest.raises(ValueError, match=r"records of \('a', 'b'\)"):
        training_batches(records, sampler, SMALL)


def test_dense_labels_are_ranks_of_class_ids():
    labels = dense_labels(FakeRecords("a", [70, 5, 70, 9, 5]))
    assert labels.tolist() == [2, 0, 2, 1, 0]
    assert labels.dtype == np.int32


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize(("num_hosts", "host_id"), [(1, 0), (3, 2)])
def test_record_batches_equal_training_batches_without_image(mixed, num_hosts, host_id):
    records = make_domains(SIZES)
    sampler = BatchSampler(records, 6, seed=1, mixed=mixed)
    batches = record_batches(records, sampler, 5, num_hosts, host_id)
    assert {n: s.shape[0] for n, s in batches.element_spec.items()} == {
        "label": 6 // num_hosts,
        "domain": 6 // num_hosts,
        "record": 6 // num_hosts,
    }
    expected = take(4, 5, num_hosts=num_hosts, host_id=host_id, mixed=mixed)
    for batch in expected:
        del batch["image"]
    assert_equal(list(itertools.islice(batches.as_numpy_iterator(), 4)), expected)


def test_record_batches_read_no_images():
    records = {"a": FakeRecords("a", [1, 2, 3])}
    batch = next(record_batches(records, BatchSampler(records, 3)).as_numpy_iterator())
    assert sorted(batch["record"].tolist()) == [0, 1, 2]


@pytest.mark.parametrize("memory_map", [False, True])
def test_gather_rows_equals_a_lookup_by_domain_and_record(tmp_path, memory_map):
    records = make_domains(SIZES)
    sampler = BatchSampler(records, 6, mixed=True)
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=(size, 3)).astype(np.float32) for size in SIZES.values()]
    if memory_map:
        for d, array in enumerate(rows):
            np.save(tmp_path / f"{d}.npy", array)
        rows = [np.load(tmp_path / f"{d}.npy", mmap_mode="r") for d in range(len(rows))]
    for batches in (training_batches(records, sampler, SMALL), record_batches(records, sampler)):
        result = gather_rows(batches, "teacher", rows)
        assert result.element_spec == {
            **batches.element_spec,
            "teacher": tf.TensorSpec([6, 3], tf.float32),
        }
        for batch in itertools.islice(result.as_numpy_iterator(), 4):
            expected = [rows[d][r] for d, r in zip(batch["domain"], batch["record"], strict=True)]
            np.testing.assert_array_equal(batch["teacher"], expected)


def test_gather_rows_fills_shorter_rows_up_with_zeros():
    records = make_domains(SIZES)
    batches = record_batches(records, BatchSampler(records, 6, mixed=True))
    result = gather_rows(batches, "teacher", [np.ones((7, 3)), np.ones((9, 4))])
    for batch in itertools.islice(result.as_numpy_iterator(), 3):
        np.testing.assert_array_equal(batch["teacher"].sum(axis=1), 3 + batch["domain"])


@pytest.mark.parametrize("total", [1, 4, 6])
def test_evaluation_batches_hold_each_record_once(total):
    records = make_domains({"a": total})["a"]
    batches = list(evaluation_batches(records, 4, 16, "crop").as_numpy_iterator())
    assert {len(b["mask"]) for b in batches} == {4}
    masks = np.concatenate([b["mask"] for b in batches])
    indices = np.concatenate([b["record"] for b in batches])
    images = np.concatenate([b["image"] for b in batches])
    assert indices[masks].tolist() == list(range(total))
    assert (indices[~masks] == 0).all()
    assert indices.dtype == np.int64
    for image, contents in zip(images[masks], records.images, strict=True):
        np.testing.assert_array_equal(image, resize(decode(contents), 16, "crop"))
    assert (images[~masks] == 127).all()
    assert evaluation_batches(records, 4, 16).element_spec["image"].shape == (4, 16, 16, 3)


def test_evaluation_batches_of_no_records_are_none():
    assert list(evaluation_batches(FakeRecords("a", [], []), 4, 16)) == []


def test_training_batches_have_the_documented_dtypes():
    batch = take(1)[0]
    assert {n: v.dtype for n, v in batch.items()} == {
        "image": np.uint8,
        "label": np.int32,
        "domain": np.int32,
        "record": np.int64,
    }


def make_corrupt_records(corrupt, total=20):
    images = [encode_random_image(seed=i) for i in range(total)]
    for i in corrupt:
        images[i] = b"\xff\xd8\xff not an image" if i % 2 else images[i][:200]
    return FakeRecords("ships", range(total), images, split="test")


@pytest.mark.parametrize("corrupt", [[13], [12], [19], list(range(10, 20))])
def test_evaluation_names_a_corrupt_image(corrupt):
    message = f"'ships/{corrupt[0]}.jpg' of domain 'ships', split 'test'"
    records = make_corrupt_records(corrupt)
    batches = evaluation_batches(records, 4, 16).as_numpy_iterator()
    candidates = [(records, i) for i in range(20)]
    with pytest.raises(UserError, match=message), report_corrupt_image(lambda: candidates):
        list(batches)


@pytest.mark.parametrize("corrupt", [[13], list(range(12, 20))])
def test_training_names_a_corrupt_image(corrupt):
    records = {"ships": make_corrupt_records(corrupt)}
    samplers = [BatchSampler(records, 4, seed=seed) for seed in range(100)]
    sampler = next(s for s in samplers if not set(s.batch_at(0).record.numpy()) & set(corrupt))
    first = next(s for s in range(9) if set(sampler.batch_at(s).record.numpy()) & set(corrupt))
    batches = training_batches(records, sampler, SMALL).as_numpy_iterator()
    candidates = [(records["ships"], int(r)) for r in sampler.batch_at(first).record]
    for _ in range(first):  # those before it are complete
        next(batches)
    # Not `as error`: its traceback would hold `batches` in a cycle. A collection of garbage that
    # starts in a thread of `batches` would then wait for that thread, and no other could follow.
    message = "|".join(f"'ships/{i}.jpg' of domain 'ships'" for i in corrupt)
    with pytest.raises(UserError, match=message), report_corrupt_image(lambda: candidates):
        next(batches)


def test_error_without_a_corrupt_image_passes_through():
    records = make_domains(SIZES)["a"]
    error = tf.errors.InvalidArgumentError(None, None, "something else")
    expected = pytest.raises(tf.errors.InvalidArgumentError, match="something else")
    with expected, report_corrupt_image(lambda: [(records, 3)]):
        raise error


@pytest.mark.parametrize("remove", [True, False])
@pytest.mark.parametrize("memory_map", [True, False])
def test_missing_or_truncated_shard_is_an_error(remove, memory_map, tmp_path, monkeypatch):
    images = [encode_random_image(seed=i) for i in range(6)]
    records = {"a": FakeRecords("a", range(6), images, folder=str(tmp_path))}
    path = Path(records["a"].shard_paths[1])
    if remove:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-10])
    candidates = [(records["a"], i) for i in range(6)]
    reader = functools.partial(RecordReader, memory_map=memory_map)
    monkeypatch.setattr(pipeline, "RecordReader", lambda records, **_: reader(records))
    sampler = BatchSampler(records, 6)
    with pytest.raises(UserError, match=path.name), report_corrupt_image(lambda: candidates):
        next(iter(training_batches(records, sampler, SMALL)))


def test_mixing_keeps_partners_and_skips_pairs_across_domains():
    plain = take(2, mixed=True)
    mixed = take(2, mixed=True, augmentation=dataclasses.replace(MIXING, mixup=0.0))
    for plain_batch, mixed_batch in zip(plain, mixed, strict=True):
        partner = [1, 0, 3, 2, 5, 4]
        np.testing.assert_array_equal(mixed_batch["label2"], mixed_batch["label"][partner])
        records = [
            sorted(zip(batch["domain"], batch["record"], batch["label"], strict=True))
            for batch in (plain_batch, mixed_batch)
        ]
        assert records[0] == records[1]
        different = mixed_batch["domain"] != mixed_batch["domain"][partner]
        assert (mixed_batch["mix"][different] == 1).all()
        assert ((mixed_batch["mix"] >= 0) & (mixed_batch["mix"] <= 1)).all()
    assert mixed[0]["image"].shape == (6, 16, 16, 3)


@pytest.mark.parametrize("num_hosts", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_hosts_split_a_batch_of_mixed_images(num_hosts):
    batches = take(3, augmentation=MIXING)
    by_host = [
        take(3, augmentation=MIXING, num_hosts=num_hosts, host_id=h) for h in range(num_hosts)
    ]
    assert any((batch["mix"] < 1).any() for batch in batches)
    assert_hosts_split(batches, by_host)


def test_full_augmentation_from_a_later_step_equals_that_in_sequence():
    full = AugmentationConfig(
        size=16,
        brightness=0.4,
        contrast=0.4,
        saturation=0.4,
        hue=0.1,
        randaugment=1,
        random_erasing=0.09,
        mixup=0.2,
        cutmix=1.0,
    )
    assert_equal(take(1, 3, full), take(4, 0, full)[3:])
