"""Losses that follow a teacher's distances."""

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from teaching import distance, gradient, losses, make, others, outputs, random_batch, unit

from universal_embedding.errors import UserError
from universal_embedding.training.config import base_config
from universal_embedding.training.objectives import absolute, feng, relational
from universal_embedding.training.objectives.base import Setting
from universal_embedding.training.strategy import mirrored

BATCHES = st.builds(
    random_batch, st.integers(0, 2**32 - 1), size=st.integers(2, 12), domains=st.integers(1, 4)
)
ALL = [feng, absolute, relational]


def naive_feng(batch, i, universal, teacher_t, student_t, apart=False):
    def probabilities(rows, temperature, among):
        values = {j: math.exp(-(distance(rows, i, j) ** 2) / temperature) for j in among}
        return {j: value / sum(values.values()) for j, value in values.items()}

    near = others(batch, i, universal)
    p = probabilities(batch["teacher"], teacher_t, near)
    q = probabilities(batch["student"], student_t, others(batch, i, apart or universal))
    return sum(p[j] * math.log(p[j] / q[j]) for j in near)


@given(BATCHES, st.booleans(), st.sampled_from([(0.1, 0.1), (0.5, 0.2)]))
def test_feng_is_the_divergence_of_the_distributions(batch, universal, temperatures):
    names = ("distillation.teacher_temperature", "distillation.student_temperature")
    objective = make(feng, universal, **dict(zip(names, temperatures, strict=True)))
    size = len(batch["domain"])
    expected = [naive_feng(batch, i, universal, *temperatures) for i in range(size)]
    np.testing.assert_allclose(losses(objective, batch), expected, rtol=1e-4, atol=1e-5)


def test_feng_with_domains_apart_is_over_the_whole_batch():
    batch = random_batch(8)
    objective = make(feng, **{"distillation.domains_apart": True})
    expected = [naive_feng(batch, i, False, 0.1, 0.1, apart=True) for i in range(12)]
    np.testing.assert_allclose(losses(objective, batch), expected, rtol=1e-4, atol=1e-5)


def test_feng_of_three_pictures_in_closed_form():
    """Teacher: one other at distance 0, one opposite, t = 4; student: both equally far."""
    batch = {
        "domain": np.zeros(3, np.int32),
        "teacher": np.array([[1, 0], [1, 0], [-1, 0]], np.float32),
        "student": unit(np.array([[0, 1], [1, 0], [-1, 0]])),
    }
    fields = {"distillation.teacher_temperature": 4.0, "distillation.student_temperature": 4.0}
    p = 1 / (1 + math.exp(-1))
    expected = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
    assert losses(make(feng, **fields), batch)[0] == pytest.approx(expected, rel=1e-5)


@given(BATCHES, st.booleans())
def test_absolute_is_the_mean_squared_difference_of_distances(batch, universal):
    expected = []
    for i in range(len(batch["domain"])):
        near = others(batch, i, universal)
        errors = [
            (distance(batch["teacher"], i, j) - distance(batch["student"], i, j)) ** 2 for j in near
        ]
        expected.append(np.mean(errors) if near else 0.0)
    got = losses(make(absolute, universal), batch)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


@given(BATCHES, st.booleans())
def test_relational_compares_distances_over_their_mean(batch, universal):
    batch["student"][:4] = unit(batch["student"][:4] * 0.01 + [1, 0, 0, 0, 0])  # some far off
    size = len(batch["domain"])
    pairs = [(i, j) for i in range(size) for j in others(batch, i, universal)]

    def mean(rows, i):
        group = [
            distance(rows, a, b)
            for a, b in pairs
            if universal or batch["domain"][a] == batch["domain"][i]
        ]
        return np.mean(group)

    expected = []
    for i in range(size):
        values = []
        for j in others(batch, i, universal):
            both = [batch["teacher"], batch["student"]]
            a, b = (distance(rows, i, j) / mean(rows, i) for rows in both)
            values.append(0.5 * (a - b) ** 2 if abs(a - b) < 1 else abs(a - b) - 0.5)
        expected.append(np.mean(values) if values else 0.0)
    got = losses(make(relational, universal), batch)
    # float32 cosines know the distance of pictures that are near to some thousandths of it
    np.testing.assert_allclose(got, expected, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("module", ALL)
def test_a_student_that_equals_its_teacher_has_nothing_to_learn(module):
    batch = random_batch(3)
    batch["student"] = batch["teacher"]
    objective = make(module)
    np.testing.assert_allclose(losses(objective, batch), 0, atol=1e-6)
    np.testing.assert_allclose(gradient(objective, batch), 0, atol=1e-5)


@pytest.mark.parametrize("module", ALL)
def test_rotating_the_teachers_space_or_widening_it_changes_nothing(module):
    batch = random_batch(4)
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(9, 9)))
    wide = np.pad(batch["teacher"], [(0, 0), (0, 2)]) @ rotation
    turned = batch | {"teacher": wide.astype(np.float32)}
    objective = make(module)
    np.testing.assert_allclose(losses(objective, batch), losses(objective, turned), atol=1e-5)


@pytest.mark.parametrize("module", ALL)
def test_teachers_get_no_gradient_and_students_a_right_one(module):
    batch = random_batch(5)
    objective = make(module)
    assert gradient(objective, batch, "teacher") is None
    exact = gradient(objective, batch).numpy()
    change = np.random.default_rng(1).normal(size=exact.shape).astype(np.float32)
    sides = [
        losses(objective, batch | {"student": batch["student"] + s * change * 1e-3}).sum()
        for s in (1, -1)
    ]
    assert (sides[0] - sides[1]) / 2e-3 == pytest.approx((exact * change).sum(), rel=2e-2)


@pytest.mark.parametrize("module", ALL)
def test_an_anchor_alone_in_its_domain_and_equal_pictures_give_numbers(module):
    batch = random_batch(6, size=4)
    batch["domain"] = np.array([0, 1, 1, 1], np.int32)
    batch["student"][1] = batch["student"][2]
    objective = make(module)
    assert losses(objective, batch)[0] == 0
    assert np.isfinite(losses(objective, batch)).all()
    assert np.isfinite(gradient(objective, batch)).all()


@pytest.mark.parametrize("module", ALL)
def test_two_replicas_give_the_losses_and_gradients_of_one(module):
    batch = random_batch(7)
    objective = make(module)
    whole, expected = losses(objective, batch), gradient(objective, batch).numpy()
    strategy = mirrored(2)

    def part(name):
        halves = np.split(batch[name], 2)
        return strategy.experimental_distribute_values_from_function(
            lambda c: tf.constant(halves[c.replica_id_in_sync_group])
        )

    @tf.function
    def run(parts):
        with tf.GradientTape() as tape:
            tape.watch(parts["student"])
            values = objective.losses(parts, outputs(parts["student"]))
        return values, tape.gradient(values, parts["student"])

    results = strategy.run(run, ({name: part(name) for name in batch},))
    values, gradients = (
        np.concatenate([r.numpy() for r in strategy.experimental_local_results(of)])
        for of in results
    )
    np.testing.assert_allclose(values, whole, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(gradients, expected, rtol=1e-3, atol=1e-5)


def test_distillation_without_teachers_is_refused():
    with pytest.raises(UserError, match=r"config\.distillation\.teachers"):
        feng.Loss(Setting(base_config(), None, {}))
