import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.fake_records import FakeRecords
from tests.helpers.numpy_batch_sampler import NumpyBatchSampler
from universal_embedding.errors import UserError
from universal_embedding.input.batch_sampler import BatchSampler, BatchSpec
from universal_embedding.input.domain_slots import SLOTS_PER_CYCLE

SIZES = {"a": 7, "b": 40, "c": 153}


def make_records(sizes=SIZES, num_classes=4):
    return {
        domain: FakeRecords(domain, [5 + 3 * (i % num_classes) for i in range(size)])
        for domain, size in sizes.items()
    }


def stack_batches(sampler, steps, start=0):
    spec = sampler.batch_at(np.arange(start, start + steps))
    return spec.domain.numpy(), spec.record.numpy()


def assert_same_batch(batch, expected):
    np.testing.assert_array_equal(batch.domain, expected.domain)
    np.testing.assert_array_equal(batch.record, expected.record)
    np.testing.assert_array_equal(batch.seed, expected.seed)


def assert_equals_numpy(sampler, oracle, steps):
    spec = sampler.batch_at(np.array(steps))
    for i, step in enumerate(steps):
        expected = oracle.batch_at(step)
        np.testing.assert_array_equal(spec.domain[i], expected.domain)
        np.testing.assert_array_equal(spec.record[i], expected.record)
        np.testing.assert_array_equal(spec.seed[i], expected.seed)


def check_settings(data):
    """Thousands of steps: near and far, across cycles, before and after new weights."""
    name = data.draw(st.sampled_from(["dataset_size", "balanced", "round_robin", "temperature"]))
    mixed, images_per_class = data.draw(st.booleans()), data.draw(st.integers(1, 4))
    seed = data.draw(st.integers(0, 2**31))
    sizes = data.draw(st.lists(st.integers(20, 300), min_size=1, max_size=4))
    records = make_records({str(d): n for d, n in enumerate(sizes)}, data.draw(st.integers(4, 9)))
    batch_size = images_per_class * data.draw(st.integers(1, 4))
    arguments = (records, batch_size, seed, name, 0.5, mixed, images_per_class)
    sampler, oracle = BatchSampler(*arguments), NumpyBatchSampler(*arguments)
    first = data.draw(st.integers(0, 2 * SLOTS_PER_CYCLE) | st.integers(0, 10**9))
    assert_equals_numpy(sampler, oracle, list(range(first, first + 60)))
    weights = dict(zip(records, data.draw(st.permutations([0.1, 2.0, 0.0, 1.0])), strict=False))
    if not sum(weights.values()):
        return
    sampler, oracle = (s.with_weights(first, weights) for s in (sampler, oracle))
    assert sampler.state == oracle.state
    assert_equals_numpy(sampler, oracle, list(range(first, first + 200, 3)))


@given(st.data())
@hypothesis.settings(max_examples=15)
def test_any_settings_equal_the_numpy_oracle(data):
    check_settings(data)


@pytest.mark.slow
@given(st.data())
@hypothesis.settings(max_examples=1000)
def test_a_thousand_settings_equal_the_numpy_oracle(data):
    check_settings(data)


WEIGHTS = {
    "dataset_size": [0.035, 0.2, 0.765],
    "balanced": [1 / 3] * 3,
    "temperature": np.array([7, 40, 153]) ** 0.5 / (np.array([7, 40, 153]) ** 0.5).sum(),
}


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("mixed", [False, True])
def test_domain_frequencies_equal_the_weights(name, mixed):
    sampler = BatchSampler(make_records(), 16, sampler=name, mixed=mixed)
    domain, _ = stack_batches(sampler, 2000)
    slots = domain.ravel() if mixed else domain[:, 0]
    frequency = np.bincount(slots, minlength=3) / len(slots)
    # of independent samples; these come in cycles and stay closer still
    deviation = np.sqrt(np.array(WEIGHTS[name]) / len(slots))
    assert (abs(frequency - WEIGHTS[name]) < 3.5 * deviation).all()
    if not mixed:
        assert (domain == domain[:, :1]).all()


def test_cycle_has_the_exact_weights():
    sampler = BatchSampler(make_records(), 1, sampler={"a": 1, "b": 2, "c": 1})
    counts = sampler.slots.count_before(SLOTS_PER_CYCLE)
    assert counts.tolist() == [SLOTS_PER_CYCLE // 4, SLOTS_PER_CYCLE // 2, SLOTS_PER_CYCLE // 4]
    rare = BatchSampler(make_records(), 1, sampler={"a": 1e-9, "b": 1, "c": 0})
    assert rare.slots.count_before(SLOTS_PER_CYCLE).tolist() == [1, SLOTS_PER_CYCLE - 1, 0]


def test_domain_order_is_not_regular():
    domain, _ = stack_batches(BatchSampler(make_records(), 1, sampler="balanced"), 3000)
    pairs = np.bincount(domain[:-1, 0] * 3 + domain[1:, 0], minlength=9)
    assert ((pairs - 2999 / 9) ** 2 / (2999 / 9)).sum() < 26.1  # 0.999 quantile at 8


@pytest.mark.parametrize("mixed", [False, True])
def test_round_robin_alternates_domains(mixed):
    sampler = BatchSampler(make_records(), 5, sampler="round_robin", mixed=mixed)
    domain, _ = stack_batches(sampler, 30)
    slots = domain.ravel() if mixed else domain[:, 0]
    np.testing.assert_array_equal(slots, np.arange(len(slots)) % 3)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("name", ["dataset_size", "round_robin"])
def test_each_record_occurs_once_per_epoch(mixed, name):
    sampler = BatchSampler(make_records(), 12, sampler=name, mixed=mixed)
    domain, record = stack_batches(sampler, 300)
    for d, n in enumerate(SIZES.values()):
        domain_records = record[domain == d]
        epochs = domain_records[: len(domain_records) // n * n].reshape(-1, n)
        assert len(epochs) > 2
        assert (np.sort(epochs) == np.arange(n)).all()
        assert (epochs[0] != epochs[1]).any()  # another order each time


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=4),
    st.integers(1, 40),
    st.sampled_from(["dataset_size", "balanced", "round_robin"]),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_records_of_an_epoch_are_distinct_for_any_domains(sizes, batch_size, name, mixed, seed):
    records = make_records({str(d): n for d, n in enumerate(sizes)})
    sampler = BatchSampler(records, batch_size, seed=seed, sampler=name, mixed=mixed)
    domain, record = stack_batches(sampler, 20)
    for d, n in enumerate(sizes):
        domain_records = record[domain == d]
        for first in range(0, len(domain_records), n):  # the last epoch is not complete
            epoch = domain_records[first : first + n]
            assert len(set(epoch)) == len(epoch)
            assert set(epoch) <= set(range(n))


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("images_per_class", [1, 4])
def test_any_step_alone_equals_the_step_in_sequence(mixed, images_per_class):
    settings = {"seed": 3, "mixed": mixed, "images_per_class": images_per_class}
    sampler = BatchSampler(make_records(), 16, **settings)
    sequence = sampler.batch_at(np.arange(50))
    for step in (0, 1, 17, 49):
        batch = BatchSampler(make_records(), 16, **settings).batch_at(step)
        names = ("domain", "record", "seed")
        assert_same_batch(batch, BatchSpec(*(getattr(sequence, name)[step] for name in names)))


def test_slot_counts_equal_a_count_of_every_slot_across_cycles():
    """Counting by cycles agrees with counting slot by slot where two cycles meet."""
    sampler = BatchSampler(make_records(), 96, sampler="dataset_size", mixed=True)
    first = SLOTS_PER_CYCLE // 96 - 10
    counts = sampler.slots.count_before(first)
    domain, _ = stack_batches(sampler, 20, first)
    for step, domains in enumerate(domain, first):
        assert sampler.slots.count_before(step).tolist() == counts.tolist()
        counts += np.bincount(domains, minlength=3)
    whole, _ = stack_batches(sampler, first)
    np.testing.assert_array_equal(np.bincount(whole.ravel()), sampler.slots.count_before(first))


def test_seeds_differ_between_images_steps_and_runs():
    seeds = [
        BatchSampler(make_records(), 64, seed=seed).batch_at(step).seed
        for seed in (0, 1)
        for step in (0, 1, 10**6)
    ]
    assert len(np.unique(np.concatenate(seeds), axis=0)) == 6 * 64


@pytest.mark.parametrize("mixed", [False, True])
def test_groups_hold_distinct_images_of_one_class(mixed):
    records = make_records({"a": 24, "b": 90, "c": 153}, num_classes=6)
    sampler = BatchSampler(records, 20, images_per_class=4, mixed=mixed, sampler="balanced")
    names = list(records)
    indices_by_domain = {d: [] for d in names}
    for domains, indices in zip(*stack_batches(sampler, 200), strict=True):
        groups = zip(domains.reshape(5, 4), indices.reshape(5, 4), strict=True)
        classes = []
        for domain, record in groups:
            assert len(set(domain)) == 1
            name = names[domain[0]]
            labels = {int(records[name].labels[i][0]) for i in record}
            assert len(labels) == 1
            assert len(set(record)) == 4  # every class has four images or more
            classes.append((name, *labels))
            indices_by_domain[name].extend(record.tolist())
        if not mixed:
            assert len(set(classes)) == 5
    for name, indices in indices_by_domain.items():
        counts = np.bincount(indices, minlength=len(records[name]))
        assert counts.min() > 0
        assert counts.max() <= 2 * counts.mean()


def test_class_smaller_than_a_group_repeats_its_images_evenly():
    records = {"a": FakeRecords("a", [1, 1, 1, 2, 3])}
    sampler = BatchSampler(records, 6, images_per_class=2)
    _, record = stack_batches(sampler, 100)
    counts = np.bincount(record.ravel(), minlength=5)
    assert counts[3] == counts[4] == 200
    assert counts[:3].sum() == 200
    assert abs(counts[:3] - 200 / 3).max() < 20


def test_weights_can_change_and_resume():
    initial = BatchSampler(make_records(), 8, seed=5, sampler="round_robin")
    second = initial.with_weights(100, {"a": 6, "b": 1, "c": 3})
    assert second.weights == pytest.approx({"a": 0.6, "b": 0.1, "c": 0.3})
    third = second.with_weights(160, {"a": 0, "b": 1, "c": 1})
    resumed = BatchSampler(make_records(), 8, seed=5, sampler="round_robin").with_state(third.state)
    for step in (160, 161, 300):
        assert_same_batch(resumed.batch_at(step), third.batch_at(step))
    # epochs continue across the change
    spans = [
        stack_batches(initial, 100),
        stack_batches(second, 60, 100),
        stack_batches(third, 200, 160),
    ]
    domain = np.concatenate([span[0] for span in spans])
    record = np.concatenate([span[1] for span in spans])
    assert not (domain[160:] == 0).any()
    for d, n in enumerate(SIZES.values()):
        domain_records = record[domain == d]
        epochs = domain_records[: len(domain_records) // n * n].reshape(-1, n)
        assert (np.sort(epochs) == np.arange(n)).all()
    with pytest.raises(ValueError, match="before step 160"):
        third.slots.count_before(159)


def test_new_weights_leave_the_sampler_they_come_from_unchanged():
    sampler = BatchSampler(make_records(), 8, seed=5, mixed=True)
    state, batch = sampler.state, sampler.batch_at(120)
    changed = sampler.with_weights(100, {"a": 6, "b": 1, "c": 3})
    assert changed.state != state
    assert sampler.state == state
    assert_same_batch(sampler.batch_at(120), batch)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size 0"),
        ({"batch_size": 10, "images_per_class": 4}, "multiple of images_per_class 4"),
        ({"batch_size": 20, "images_per_class": 2}, "'a' has 4 classes, fewer than the 10"),
    ],
)
def test_invalid_batch_size_is_an_error(arguments, message):
    with pytest.raises(UserError, match=message):
        BatchSampler(make_records(), **arguments)


def test_domain_without_images_is_an_error():
    with pytest.raises(UserError, match="no training images in domain 'b'"):
        BatchSampler(make_records({"a": 3, "b": 0}), 2)
    with pytest.raises(UserError, match="no training images in the data"):
        BatchSampler({}, 2)
