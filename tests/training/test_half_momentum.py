"""First moments in bfloat16: their formula, their memory, their effect, and where they are none."""

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.steps import state_of, take_steps
from universal_embedding.errors import UserError
from universal_embedding.training.checkpoints import Checkpoints, hash_state
from universal_embedding.training.config import stage
from universal_embedding.training.half_momentum import with_momentum_dtype
from universal_embedding.training.strategy import mirrored


def round_momentum(values):
    return np.asarray(values, np.float32).astype(ml_dtypes.bfloat16).astype(np.float32)


def adam(w, m, v, g, step):
    m = round_momentum(m + 0.1 * (g - m))
    v = v + 0.001 * (g * g - v)
    rate = 0.01 * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
    return w - rate * m / (np.sqrt(v) + 1e-7), m, v


def sgd(w, m, v, g, step):
    m = round_momentum(0.9 * m - 0.01 * g)
    return w + m, m, v


def lion(w, m, v, g, step):
    w = w - 0.01 * np.sign(0.9 * m + 0.1 * g)
    return w, round_momentum(0.99 * m + 0.01 * g), v


@pytest.mark.parametrize(
    ("name", "formula", "options"),
    [("Adam", adam, {}), ("SGD", sgd, {"momentum": 0.9}), ("Lion", lion, {})],
)
def test_updates_are_those_in_float32_with_rounded_first_moments(name, formula, options):
    rng = np.random.default_rng(0)
    variable = keras.Variable(rng.normal(size=200).astype(np.float32))
    optimizer = with_momentum_dtype(getattr(keras.optimizers, name), "bfloat16")(0.01, **options)
    optimizer.build([variable])
    w, m, v = variable.numpy(), np.zeros(200, np.float32), np.zeros(200, np.float32)
    for step in range(1, 60):
        gradient = (1 + rng.normal(size=200)).astype(np.float32)
        optimizer.apply([tf.constant(gradient)], [variable])
        w, m, v = formula(w, m, v, gradient, step)
    slots = {slot.path.rpartition("_")[2]: slot for slot in optimizer.variables[2:]}
    assert slots["momentum"].dtype == "bfloat16"
    assert all(slot.dtype == "float32" for kind, slot in slots.items() if kind != "momentum")
    same = slots["momentum"].numpy().astype(np.float32) == m
    assert same.mean() > 0.97  # the last digit of float32 decides a tie now and then
    np.testing.assert_allclose(variable, w, rtol=1e-4, atol=1e-5)


def test_half_of_the_first_moments_is_saved_and_the_losses_stay(make_experiment, config):
    config.data.batch_size = 24
    rates = {"backbone_lr": 1e-2, "projection_lr": 1e-2, "head_lr": 1e-2}
    config.stages = (stage(steps=60, schedule="constant", **rates),)
    sums, bytes_of_slots = {}, {}
    for dtype in ("float32", "bfloat16"):
        config.optimizer.momentum_dtype = dtype
        experiment = make_experiment()
        sums[dtype], _ = take_steps(experiment, experiment.stages[0], num_steps=60)
        slots = state_of(experiment)["optimizers"]
        bytes_of_slots[dtype] = sum(values.nbytes for values in slots)
    weights = [v for group in experiment.param_groups.values() for v in group.variables]
    num_weights = sum(int(np.prod(v.shape)) for v in weights)
    assert bytes_of_slots["float32"] - bytes_of_slots["bfloat16"] == 2 * num_weights
    losses = {dtype: values[:, 0].sum(axis=-1) / 24 for dtype, values in sums.items()}
    assert not np.array_equal(losses["float32"], losses["bfloat16"])
    np.testing.assert_allclose(losses["float32"], losses["bfloat16"], rtol=0.02)


def test_compiled_replicas_sharded_classes_and_checkpoints_keep_them(
    make_experiment, config, tmp_path
):
    config.optimizer.momentum_dtype = "bfloat16"
    config.data.batch_size = 12
    one = make_experiment("one")
    expected, _ = take_steps(one, one.stages[0], num_steps=3)
    config.head.sharded = True
    two = make_experiment("two", strategy=mirrored(2), jit_compile=True)
    actual, _ = take_steps(two, two.stages[0], num_steps=3)
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-5)
    state = two.checkpoint_state()
    checkpoints = Checkpoints(tmp_path / "saved", state)
    checkpoints.save(3)
    checkpoints.wait()
    before = hash_state(state)
    take_steps(two, two.stages[0], num_steps=1)
    assert hash_state(state) != before
    assert checkpoints.restore_newest()
    assert hash_state(state) == before


@pytest.mark.parametrize(
    ("name", "momentum", "dtype", "message"),
    [
        ("adafactor", 0.9, "bfloat16", "but Adafactor keeps no first moments with these settings"),
        ("rmsprop", 0.9, "bfloat16", "but RMSprop keeps no first moments"),
        ("sgd", 0.0, "bfloat16", "but SGD keeps no first moments"),
        ("adamw", 0.9, "float16", "is 'float16'; it must be one of float32, bfloat16"),
    ],
)
def test_types_without_effect_are_refused(make_experiment, config, name, momentum, dtype, message):
    config.optimizer.update(name=name, momentum=momentum, momentum_dtype=dtype)
    with pytest.raises(UserError, match=message):
        make_experiment()


def test_second_moments_in_bfloat16_would_never_shrink():
    """The reason why only first moments have the option."""
    second = np.float32([1.0, 3.7, 2e-9])
    assert np.array_equal(round_momentum(0.999 * round_momentum(second)), round_momentum(second))
    assert (round_momentum(0.99 * round_momentum(second)) < round_momentum(second)).all()
