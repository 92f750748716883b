"""Losses that follow a teacher's distances."""

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import naive_losses
from tests.helpers.loss_batches import (
    loss_gradient,
    loss_values,
    make_loss,
    model_outputs,
    random_batch,
    unit_rows,
)
from universal_embedding.errors import UserError
from universal_embedding.training.config import base_config
from universal_embedding.training.losses import LOSSES, LossContext
from universal_embedding.training.strategy import mirrored

BATCHES = st.builds(
    random_batch, st.integers(0, 2**32 - 1), size=st.integers(2, 12), num_domains=st.integers(1, 4)
)
NAMES = ["distance_distribution", "distance", "rkd_distance"]


@given(BATCHES, st.booleans(), st.sampled_from([(0.1, 0.1), (0.5, 0.2)]))
def test_distance_distribution_equals_naive_kl_divergence(batch, is_universal, temperatures):
    names = ("teacher_temperature", "student_temperature")
    options = dict(zip(names, temperatures, strict=True))
    loss = make_loss("distance_distribution", is_universal, **options)
    size = len(batch["domain"])
    expected = [
        naive_losses.distance_distribution(batch, i, is_universal, *temperatures)
        for i in range(size)
    ]
    np.testing.assert_allclose(loss_values(loss, batch), expected, rtol=1e-4, atol=1e-5)


def test_distance_distribution_with_mask_other_domains_covers_whole_batch():
    batch = random_batch(8)
    loss = make_loss("distance_distribution", mask_other_domains=True)
    expected = [
        naive_losses.distance_distribution(batch, i, False, 0.1, 0.1, mask_other_domains=True)
        for i in range(12)
    ]
    np.testing.assert_allclose(loss_values(loss, batch), expected, rtol=1e-4, atol=1e-5)


def test_distance_distribution_of_three_images_equals_closed_form():
    """Teacher: one image at distance 0, one opposite, T = 4; student: both equally far."""
    batch = {
        "domain": np.zeros(3, np.int32),
        "teacher": np.array([[1, 0], [1, 0], [-1, 0]], np.float32),
        "student": unit_rows(np.array([[0, 1], [1, 0], [-1, 0]])),
    }
    loss = make_loss("distance_distribution", teacher_temperature=4.0, student_temperature=4.0)
    p = 1 / (1 + math.exp(-1))
    expected = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
    assert loss_values(loss, batch)[0] == pytest.approx(expected, rel=1e-5)


@given(BATCHES, st.booleans())
def test_distance_equals_mean_squared_difference(batch, is_universal):
    anchors = range(len(batch["domain"]))
    expected = [naive_losses.mean_squared_difference(batch, i, is_universal) for i in anchors]
    values = loss_values(make_loss("distance", is_universal), batch)
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-6)


@given(BATCHES, st.booleans())
def test_rkd_distance_equals_naive_huber_of_relative_distances(batch, is_universal):
    outliers = batch["student"][:4] * 0.01 + [1, 0, 0, 0, 0]
    batch["student"][:4] = unit_rows(outliers)
    anchors = range(len(batch["domain"]))
    expected = [naive_losses.rkd_distance(batch, i, is_universal) for i in anchors]
    values = loss_values(make_loss("rkd_distance", is_universal), batch)
    # float32 cosines resolve the distance of close images to a few thousandths of it
    np.testing.assert_allclose(values, expected, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("name", NAMES)
def test_loss_is_zero_when_student_equals_teacher(name):
    batch = random_batch(3)
    batch["student"] = batch["teacher"]
    loss = make_loss(name)
    np.testing.assert_allclose(loss_values(loss, batch), 0, atol=1e-6)
    np.testing.assert_allclose(loss_gradient(loss, batch), 0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_loss_is_invariant_to_teacher_rotation_and_padding(name):
    batch = random_batch(4)
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(9, 9)))
    padded = np.pad(batch["teacher"], [(0, 0), (0, 2)]) @ rotation
    rotated = batch | {"teacher": padded.astype(np.float32)}
    loss = make_loss(name)
    np.testing.assert_allclose(loss_values(loss, batch), loss_values(loss, rotated), atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_is_none_for_teacher_and_numerically_right_for_student(name):
    batch = random_batch(5)
    loss = make_loss(name)
    assert loss_gradient(loss, batch, "teacher") is None
    exact = loss_gradient(loss, batch).numpy()
    change = np.random.default_rng(1).normal(size=exact.shape).astype(np.float32)
    sides = [
        loss_values(loss, batch | {"student": batch["student"] + sign * change * 1e-3}).sum()
        for sign in (1, -1)
    ]
    assert (sides[0] - sides[1]) / 2e-3 == pytest.approx((exact * change).sum(), rel=2e-2)


@pytest.mark.parametrize("name", NAMES)
def test_loss_is_finite_with_single_image_of_domain_and_equal_images(name):
    batch = random_batch(6, size=4)
    batch["domain"] = np.array([0, 1, 1, 1], np.int32)
    batch["student"][1] = batch["student"][2]
    loss = make_loss(name)
    assert loss_values(loss, batch)[0] == 0
    assert np.isfinite(loss_values(loss, batch)).all()
    assert np.isfinite(loss_gradient(loss, batch)).all()


@pytest.mark.parametrize("name", NAMES)
def test_two_replicas_give_losses_and_gradients_of_one(name):
    batch = random_batch(7)
    loss = make_loss(name)
    expected_values, expected = loss_values(loss, batch), loss_gradient(loss, batch).numpy()
    strategy = mirrored(2)

    def distribute(values):
        halves = np.split(values, 2)
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(halves[context.replica_id_in_sync_group])
        )

    @tf.function
    def values_and_gradients(local_batch):
        with tf.GradientTape() as tape:
            tape.watch(local_batch["student"])
            values = loss(local_batch, model_outputs(local_batch["student"]))
        return values, tape.gradient(values, local_batch["student"])

    local_batches = {name: distribute(values) for name, values in batch.items()}
    results = strategy.run(values_and_gradients, (local_batches,))
    values, gradients = (
        np.concatenate([r.numpy() for r in strategy.experimental_local_results(result)])
        for result in results
    )
    np.testing.assert_allclose(values, expected_values, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(gradients, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_missing_teachers_are_refused(name):
    with pytest.raises(UserError, match=r"config\.distillation\.teachers"):
        LOSSES[name](LossContext(base_config(), None, {}))
