import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fake_records import FakeRecords

from universal_embedding.errors import UserError
from universal_embedding.input.draws import CYCLE, Draws

SIZES = {"a": 7, "b": 40, "c": 153}


def fake(sizes=SIZES, classes=4):
    return {
        d: FakeRecords(d, [b""] * n, [5 + 3 * (i % classes) for i in range(n)])
        for d, n in sizes.items()
    }


def gathered(draws, steps, first=0):
    batches = [draws.at(step) for step in range(first, first + steps)]
    return np.stack([b.domain for b in batches]), np.stack([b.record for b in batches])


WEIGHTS = {
    "dataset_size": [0.035, 0.2, 0.765],
    "balanced": [1 / 3] * 3,
    "temperature": np.array([7, 40, 153]) ** 0.5 / (np.array([7, 40, 153]) ** 0.5).sum(),
}


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("mixed", [False, True])
def test_frequencies_are_the_definition(name, mixed):
    draws = Draws(fake(), 16, sampler=name, mixed=mixed)
    domain, _ = gathered(draws, 2000)
    turns = domain.ravel() if mixed else domain[:, 0]
    share = np.bincount(turns, minlength=3) / len(turns)
    # of independent draws; these come in cycles and stay closer still
    deviation = np.sqrt(np.array(WEIGHTS[name]) / len(turns))
    assert (abs(share - WEIGHTS[name]) < 3.5 * deviation).all()
    if not mixed:
        assert (domain == domain[:, :1]).all()


def test_a_cycle_holds_the_exact_shares():
    draws = Draws(fake(), 1, sampler={"a": 1, "b": 2, "c": 1})
    before = draws._turns_before(CYCLE)
    assert before.tolist() == [CYCLE // 4, CYCLE // 2, CYCLE // 4]
    rare = Draws(fake(), 1, sampler={"a": 1e-9, "b": 1, "c": 0})
    assert rare._turns_before(CYCLE).tolist() == [1, CYCLE - 1, 0]


def test_order_of_domains_is_not_regular():
    domain, _ = gathered(Draws(fake(), 1, sampler="balanced"), 3000)
    pairs = np.bincount(domain[:-1, 0] * 3 + domain[1:, 0], minlength=9)
    assert ((pairs - 2999 / 9) ** 2 / (2999 / 9)).sum() < 26.1  # 0.999 quantile at 8


@pytest.mark.parametrize("mixed", [False, True])
def test_round_robin_comes_in_turn(mixed):
    domain, _ = gathered(Draws(fake(), 5, sampler="round_robin", mixed=mixed), 30)
    turns = domain.ravel() if mixed else domain[:, 0]
    np.testing.assert_array_equal(turns, np.arange(len(turns)) % 3)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("sampler", ["dataset_size", "round_robin"])
def test_each_record_once_per_epoch(mixed, sampler):
    domain, record = gathered(Draws(fake(), 12, sampler=sampler, mixed=mixed), 300)
    for d, n in enumerate(SIZES.values()):
        of_domain = record[domain == d]
        epochs = of_domain[: len(of_domain) // n * n].reshape(-1, n)
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
def test_epochs_of_any_domains(sizes, batch_size, sampler, mixed, seed):
    records = fake({str(d): n for d, n in enumerate(sizes)})
    draws = Draws(records, batch_size, seed=seed, sampler=sampler, mixed=mixed)
    domain, record = gathered(draws, 20)
    for d, n in enumerate(sizes):
        of_domain = record[domain == d]
        for first in range(0, len(of_domain), n):  # the last epoch is not over
            epoch = of_domain[first : first + n]
            assert len(set(epoch)) == len(epoch)
            assert set(epoch) <= set(range(n))


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("pictures_per_class", [1, 4])
def test_any_step_alone_equals_the_step_in_sequence(mixed, pictures_per_class):
    settings = {"seed": 3, "mixed": mixed, "pictures_per_class": pictures_per_class}
    sequence = [Draws(fake(), 16, **settings).at(s) for s in range(50)]
    for step in (0, 1, 17, 49):
        fresh = Draws(fake(), 16, **settings).at(step)
        np.testing.assert_array_equal(fresh.domain, sequence[step].domain)
        np.testing.assert_array_equal(fresh.record, sequence[step].record)
        np.testing.assert_array_equal(fresh.seed, sequence[step].seed)


def test_epochs_hold_across_cycles_of_the_sampler():
    """Counting by cycles agrees with counting turn by turn where two cycles meet."""
    draws = Draws(fake(), 96, sampler="dataset_size", mixed=True)
    counts = np.zeros(3, int)
    for step in range(CYCLE // 96 + 20):
        assert draws._turns_before(step).tolist() == counts.tolist()
        counts += np.bincount(draws.at(step).domain, minlength=3)


def test_seeds_differ_between_pictures_steps_and_runs():
    seeds = [Draws(fake(), 64, seed=s).at(t).seed for s in (0, 1) for t in (0, 1, 10**6)]
    assert len(np.unique(np.concatenate(seeds), axis=0)) == 6 * 64


@pytest.mark.parametrize("mixed", [False, True])
def test_classes_by_pictures(mixed):
    records = fake({"a": 24, "b": 90, "c": 153}, classes=6)
    draws = Draws(records, 20, pictures_per_class=4, mixed=mixed, sampler="balanced")
    names = list(records)
    seen = {d: [] for d in names}
    for step in range(200):
        draw = draws.at(step)
        rows = zip(draw.domain.reshape(5, 4), draw.record.reshape(5, 4), strict=True)
        classes = []
        for domain, record in rows:
            assert len(set(domain)) == 1
            name = names[domain[0]]
            labels = {int(records[name].labels[i][0]) for i in record}
            assert len(labels) == 1
            assert len(set(record)) == 4  # a class of four or more gives four pictures
            classes.append((name, *labels))
            seen[name].extend(record.tolist())
        if not mixed:
            assert len(set(classes)) == 5
    for name, numbers in seen.items():
        counts = np.bincount(numbers, minlength=len(records[name]))
        assert counts.min() > 0
        assert counts.max() <= 2 * counts.mean()


def test_small_class_repeats_its_pictures_evenly():
    records = {"a": FakeRecords("a", [b""] * 5, [1, 1, 1, 2, 3])}
    draws = Draws(records, 6, pictures_per_class=2)
    _, record = gathered(draws, 100)
    counts = np.bincount(record.ravel(), minlength=5)
    assert counts[3] == counts[4] == 200
    assert counts[:3].sum() == 200
    assert abs(counts[:3] - 200 / 3).max() < 20


def test_weights_can_change_and_resume():
    start = Draws(fake(), 8, seed=5, sampler="round_robin")
    later = start.reweighted(100, {"a": 6, "b": 1, "c": 3})
    assert later.weights == pytest.approx({"a": 0.6, "b": 0.1, "c": 0.3})
    again = later.reweighted(160, {"a": 0, "b": 1, "c": 1})
    resumed = Draws(fake(), 8, seed=5, sampler="round_robin").restored(again.state)
    for step in (160, 161, 300):
        np.testing.assert_array_equal(again.at(step).record, resumed.at(step).record)
    # epochs go on over the change
    parts = [gathered(start, 100), gathered(later, 60, 100), gathered(again, 200, 160)]
    domain = np.concatenate([p[0] for p in parts])
    record = np.concatenate([p[1] for p in parts])
    assert not (domain[160:] == 0).any()
    for d, n in enumerate(SIZES.values()):
        of_domain = record[domain == d]
        epochs = of_domain[: len(of_domain) // n * n].reshape(-1, n)
        assert (np.sort(epochs) == np.arange(n)).all()
    with pytest.raises(ValueError, match="before step 160"):
        again.at(159)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size 0"),
        ({"batch_size": 10, "pictures_per_class": 4}, "multiple of pictures_per_class 4"),
        ({"batch_size": 20, "pictures_per_class": 2}, "'a' has 4 classes, fewer than the 10"),
    ],
)
def test_numbers_that_do_not_fit(arguments, message):
    with pytest.raises(UserError, match=message):
        Draws(fake(), **arguments)


def test_no_pictures():
    with pytest.raises(UserError, match="no training pictures"):
        Draws(fake({"a": 3, "b": 0}), 2)
