"""Batches that hold a fixed share of old images: `config.data.replay`."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.fake_records import FakeRecords
from universal_embedding.errors import UserError
from universal_embedding.input.batch_sampler import BatchSampler


def make_sampler(sizes, old_sizes, replay, **options):
    records = {domain: FakeRecords(domain, np.arange(n)) for domain, n in sizes.items()}
    return BatchSampler(records, replay=replay, old_sizes=old_sizes, **options)


def drawn_records(sampler, domain, steps):
    """The records of one domain in the order in which the run takes them."""
    batches = sampler.batch_at(np.arange(steps))
    d, record = batches.domain.numpy().ravel(), batches.record.numpy().ravel()
    return record[d == sampler.domains.index(domain)]


@settings(max_examples=20)
@given(
    st.floats(0.05, 0.95),
    st.integers(1, 12),
    st.integers(1, 12),
    st.booleans(),
    st.integers(0, 2**31 - 1),
)
def test_each_part_has_its_share_and_epochs_of_its_own(replay, num_old, num_new, mixed, seed):
    sizes = {"a": num_old + num_new, "b": 5}
    sampler = make_sampler(sizes, {"a": num_old}, replay, batch_size=8, mixed=mixed, seed=seed)
    records = drawn_records(sampler, "a", 60)
    is_old = records < num_old
    counts = np.cumsum(is_old)
    expected = np.arange(1, len(records) + 1) * replay
    assert np.abs(counts - expected).max() <= 1 + len(records) / 2**16
    for part, first, size in ((records[is_old], 0, num_old), (records[~is_old], num_old, num_new)):
        for start in range(0, len(part) - size + 1, size):
            assert sorted(part[start : start + size]) == [*range(first, first + size)]


def test_domains_of_one_part_and_runs_without_replay_are_as_before():
    sizes = {"old": 7, "new": 9, "both": 8}
    plain = make_sampler(sizes, None, 0.0, batch_size=6, mixed=True, seed=3)
    sampler = make_sampler(sizes, {"old": 7, "both": 4}, 0.5, batch_size=6, mixed=True, seed=3)
    np.testing.assert_array_equal(
        drawn_records(plain, "new", 40), drawn_records(sampler, "new", 40)
    )
    for domain in ("old", "new"):
        records = drawn_records(sampler, domain, 40)
        assert sorted(records[: sizes[domain]]) == [*range(sizes[domain])]


def test_a_step_does_not_depend_on_the_steps_before():
    sampler = make_sampler({"a": 20}, {"a": 6}, 0.3, batch_size=4, seed=1)
    records = sampler.batch_at(np.arange(30)).record.numpy()
    np.testing.assert_array_equal(sampler.batch_at(17).record.numpy(), records[17])


@pytest.mark.parametrize("options", [{"replay": 1.5}, {"replay": 0.5, "images_per_class": 2}])
def test_impossible_shares_are_refused(options):
    with pytest.raises(UserError, match="must be a share from 0 to 1"):
        make_sampler({"a": 8}, {"a": 4}, batch_size=4, **options)
