"""The sum over several teachers against its definition: weights, dropping, balance."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.loss_batches import ArrayTeacher
from universal_embedding.errors import UserError
from universal_embedding.training.config import base_config
from universal_embedding.training.losses.teacher_loss import TeacherWeights
from universal_embedding.training.strategy import mirrored

STEP = tf.constant(3, tf.int64)
WEIGHTS = (1.0, 2.0, 0.5)


def make_weights(weights=WEIGHTS, **options):
    config = base_config()
    config.distillation.update(options)
    teachers = [ArrayTeacher(True, f"t{i}", weight) for i, weight in enumerate(weights)]
    return TeacherWeights(config, teachers)


def make_batch(size=6, **known):
    places = {"domain": np.zeros(size, np.int32), "record": np.arange(size)}
    return {name: tf.constant(value) for name, value in {**places, **known}.items()}


def random_losses(size=6, seed=0):
    return np.random.default_rng(seed).uniform(0.1, 3, (3, size)).astype(np.float32)


def combine(weights, losses, batch, step=STEP):
    return weights.combine([tf.constant(row) for row in losses], batch, step).numpy()


def test_teachers_are_weighted_and_logged():
    losses = random_losses()
    result = combine(make_weights(), losses, make_batch())
    np.testing.assert_allclose(result[0], np.average(losses, 0, WEIGHTS), rtol=1e-6)
    np.testing.assert_array_equal(result[1:], losses)


def test_one_teacher_changes_nothing():
    losses = random_losses()[:1]
    result = combine(make_weights([3.0], drop_probability=0.5), losses, make_batch())
    np.testing.assert_array_equal(result, losses[0])


def test_images_that_a_teacher_does_not_know_are_of_the_others():
    losses, known = random_losses(), np.arange(6) % 2 == 0
    for drop in (0.0, 0.5):
        weights = make_weights([1.0, 1.0, 1.0], drop_probability=drop)
        batch = make_batch(**{"known t0": known, "known t1": known, "known t2": known})
        result = combine(weights, losses, batch)
        assert not result[:, ~known].any() and result[:, known].all()
    batch = make_batch(**{"known t0": known})
    result = combine(make_weights([1.0, 2.0, 2.0]), losses, batch)
    np.testing.assert_allclose(result[0, ~known], losses[1:, ~known].mean(0), rtol=1e-6)


def coefficients(weights, losses, num_draws):
    """`[draws, T]`: the share of each teacher of one image at many steps, by the gradient."""
    batch = make_batch(num_draws)
    tiled = tf.constant(np.repeat(losses[:, None], num_draws, 1))
    with tf.GradientTape() as tape:
        tape.watch(tiled)
        total = tf.reduce_sum(weights.combine(tf.unstack(tiled), batch, STEP)[0])
    return tape.gradient(total, tiled).numpy().T


@pytest.mark.parametrize("losses", [(1.0, 0.2, 3.0), (4.0, 0.9, 0.1)])
def test_dropping_never_drops_the_worst_and_has_the_expected_shares(losses):
    losses, drop = np.array(losses, np.float32), 0.5
    shares = coefficients(make_weights(drop_probability=drop), losses, 40_000)
    worst = int(np.argmax(losses * WEIGHTS))
    others = [i for i in range(3) if i != worst]
    assert (shares[:, worst] > 0).all()
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-5)
    expected = np.zeros(3)
    for kept in itertools.product([False, True], repeat=2):
        chosen = [worst, *(i for i, k in zip(others, kept, strict=True) if k)]
        weights = np.array([WEIGHTS[i] if i in chosen else 0.0 for i in range(3)])
        expected += drop**2 * weights / weights.sum()  # each subset has probability 1/4
    np.testing.assert_allclose(shares.mean(0), expected, atol=0.01)
    np.testing.assert_allclose((shares[:, others] > 0).mean(0), 1 - drop, atol=0.01)


def test_draws_are_a_function_of_seed_step_and_record():
    losses, weights = random_losses(64), make_weights(drop_probability=0.5)
    batch = make_batch(64)
    first = combine(weights, losses, batch)
    np.testing.assert_array_equal(combine(weights, losses, batch), first)
    order = np.random.default_rng(0).permutation(64)
    moved = {name: tf.gather(values, order) for name, values in batch.items()}
    np.testing.assert_array_equal(combine(weights, losses[:, order], moved), first[:, order])
    assert (combine(weights, losses, batch, STEP + 1) != first).any()


def test_balanced_teachers_contribute_equally_on_any_number_of_replicas():
    losses = np.array([[0.01] * 4, [1.0] * 4, [100.0] * 4], np.float32)
    means = []
    for strategy in (tf.distribute.get_strategy(), mirrored(2)):
        with strategy.scope():
            weights = make_weights([1.0, 1.0, 1.0], balance_decay=0.5)
        size = 4 // strategy.num_replicas_in_sync

        @tf.function
        def step(factor, weights=weights, size=size):
            batch = make_batch(size)
            rows = weights.combine(
                [tf.constant(row[:size]) * factor for row in losses], batch, STEP
            )
            context = tf.distribute.get_replica_context()
            sums = context.all_reduce(tf.distribute.ReduceOp.SUM, tf.reduce_sum(rows, 1)[:, None])
            weights.update(sums, tf.constant([4.0]))
            return rows

        def run(factor, strategy=strategy, step=step):
            rows = strategy.run(step, (tf.constant(factor),))
            return strategy.experimental_local_results(rows)[0].numpy()

        first, second = run(1.0), run(3.0)
        np.testing.assert_allclose(first[0], losses[:, 0].mean(), rtol=1e-5)  # nothing is known yet
        shares = second[1:, 0] / losses[:, 0] / (1 / losses[:, 0]).sum()
        np.testing.assert_allclose(second[0], shares.sum(), rtol=1e-5)
        np.testing.assert_allclose(shares, shares[0], rtol=1e-5)
        means.append(weights.variables[0].numpy())
    np.testing.assert_allclose(means[0], losses[:, 0] * (0.5 + 0.5 * 3.0), rtol=1e-6)
    np.testing.assert_array_equal(means[1], means[0])


@pytest.mark.parametrize(
    ("weights", "options", "message"),
    [
        ((1.0, 0.0), {}, "must be above 0"),
        ((1.0,), {"drop_probability": 1.0}, r"drop_probability is 1\.0"),
        ((1.0,), {"balance_decay": -0.1}, "balance_decay is -0.1"),
    ],
)
def test_impossible_options_are_refused(weights, options, message):
    with pytest.raises(UserError, match=message):
        make_weights(weights, **options)
