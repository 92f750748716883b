"""Partners of MixUp and CutMix: of one domain and of two classes wherever that is possible."""

import collections

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.fake_records import make_domains
from universal_embedding.input.augmentation import mixing_order
from universal_embedding.input.batch_sampler import BatchSampler
from universal_embedding.input.images import AugmentationConfig
from universal_embedding.input.pipeline import training_batches

MIXUP = AugmentationConfig(size=16, mixup=0.4)


def count_mixed_pairs(domain, label):
    pairs = zip(domain[0::2], domain[1::2], label[0::2], label[1::2], strict=False)
    return sum(d1 == d2 and l1 != l2 for d1, d2, l1, l2 in pairs)


def largest_number_of_mixed_pairs(domain, label):
    """Within a domain of n images, m of them in the largest class: min(n // 2, n - m)."""
    total = 0
    for d in set(domain):
        sizes = collections.Counter(la for e, la in zip(domain, label, strict=True) if e == d)
        n = sum(sizes.values())
        total += min(n // 2, n - max(sizes.values()))
    return total


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_as_many_pairs_are_mixed_as_can_be(data):
    size = data.draw(st.integers(1, 24))
    num_domains, num_classes = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 6))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**20)))
    domain = rng.integers(0, num_domains, (3, size)).astype(np.int32)
    label = rng.integers(0, num_classes, (3, size)).astype(np.int32)
    seed = rng.integers(-(2**31), 2**31, (3, 2)).astype(np.int32)
    order = mixing_order(tf.constant(domain), tf.constant(label), tf.constant(seed)).numpy()
    for d, la, o in zip(domain, label, order, strict=True):
        assert sorted(o) == list(range(size))
        odd = sum(np.bincount(d) % 2)  # domains in which one image stays alone
        found = count_mixed_pairs(d[o], la[o])
        best = largest_number_of_mixed_pairs(d.tolist(), la.tolist())
        assert best - odd <= found <= best


def test_partners_of_a_class_change_from_batch_to_batch():
    label = np.tile(np.arange(8, dtype=np.int32), (200, 1))
    seed = np.random.default_rng(0).integers(0, 2**31, (200, 2)).astype(np.int32)
    order = mixing_order(tf.zeros_like(label), tf.constant(label), tf.constant(seed)).numpy()
    pairs = collections.Counter(frozenset(p) for o in order for p in o.reshape(4, 2).tolist())
    assert len(pairs) == 28  # every pair of the eight classes
    assert min(pairs.values()) > 10  # 200 * 4 / 28 = 29 on average


@pytest.mark.parametrize(
    ("mixed", "images_per_class", "least"), [(True, 1, 0.8), (True, 2, 0.8), (False, 4, 1.0)]
)
def test_most_images_of_training_batches_are_mixed(mixed, images_per_class, least):
    sizes = {"a": 60, "b": 90, "c": 40, "d": 80}
    records = make_domains(sizes, num_classes=10, height=8, width=9)
    sampler = BatchSampler(
        records, 32, sampler="balanced", mixed=mixed, images_per_class=images_per_class
    )
    shares = []
    for batch in training_batches(records, sampler, MIXUP).take(4).as_numpy_iterator():
        shares.append(np.mean((batch["label"] != batch["label2"]) & (batch["mix"] < 1)))
    assert np.mean(shares) >= least


@pytest.mark.parametrize("num_hosts", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_order_does_not_depend_on_the_number_of_hosts(num_hosts):
    records = make_domains({"a": 30, "b": 50}, height=8, width=9)
    sampler = BatchSampler(records, 16, seed=5, mixed=True)

    def read(hosts, host):
        batches = training_batches(records, sampler, MIXUP, 3, hosts, host).take(2)
        return list(batches.as_numpy_iterator())

    whole, parts = read(1, 0), [read(num_hosts, host) for host in range(num_hosts)]
    for step, batch in enumerate(whole):
        for name, values in batch.items():
            joined = np.concatenate([part[step][name] for part in parts])
            np.testing.assert_array_equal(joined, values)
