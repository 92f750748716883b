"""Decay, clipping and layer-wise rates, each against its formula."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from universal_embedding.errors import UserError
from universal_embedding.models.backbones import depths
from universal_embedding.training.config import stage
from universal_embedding.training.optimizers import StageRate, clip_together, make_optimizer
from universal_embedding.training.stages import read_stages
from universal_embedding.training.trainer import Trainer


def optimizer_of(variables, name, weight_decay=0.0):
    stages = read_stages([stage(steps=10, head_rate=0.1, schedule="constant")], 16)
    step = tf.Variable(0, dtype=tf.int64)
    return make_optimizer(name, variables, StageRate(stages, "head", 0, step), weight_decay)


@pytest.mark.parametrize("name", ["adamw", "sgd", "lamb"])
def test_weight_decay_leaves_out_norms_and_biases(name):
    kernel = keras.Variable(np.full((2, 3), 2.0, np.float32), name="kernel")
    bias = keras.Variable(np.full(3, 2.0, np.float32), name="bias")
    norm = keras.layers.LayerNormalization()
    norm.build((None, 3))
    variables = [kernel, bias, *norm.trainable_variables]
    before = [variable.numpy() for variable in variables]
    optimizer = optimizer_of(variables, name=name, weight_decay=0.5)
    optimizer.apply([tf.zeros(variable.shape) for variable in variables], variables)
    np.testing.assert_allclose(kernel, before[0] * (1 - 0.5 * 0.1), rtol=1e-6)
    for old, new in zip(before[1:], variables[1:], strict=True):
        np.testing.assert_array_equal(old, new.numpy())


def test_an_unknown_optimizer_is_named():
    with pytest.raises(UserError, match=r"adamm.*adamw"):
        optimizer_of([keras.Variable(1.0)], name="adamm")


@pytest.mark.parametrize("clip_norm", [0.0, 2.0, 5.0, 20.0])
def test_clipping_is_the_closed_form_over_all_parts_together(clip_norm):
    rng = np.random.default_rng(0)
    gradients = {
        "a": [np.float32(rng.normal(size=(3, 4))), np.float32(rng.normal(size=5))],
        "b": [np.float32(3 * rng.normal(size=(2, 2)))],
    }
    norm = math.sqrt(sum(float((g**2).sum()) for of in gradients.values() for g in of))
    assert 5 < norm < 20
    tensors = {name: [tf.constant(g) for g in of] for name, of in gradients.items()}
    clipped, found = clip_together(tensors, clip_norm)
    assert float(found) == pytest.approx(norm, rel=1e-5)
    factor = min(1.0, clip_norm / norm) if clip_norm else 1.0
    assert clipped.keys() == gradients.keys()
    for name, of in gradients.items():
        for ours, theirs in zip(clipped[name], of, strict=True):
            np.testing.assert_allclose(ours, theirs * factor, rtol=1e-5)


def test_each_depths_rate_is_the_decay_to_the_power_of_what_lies_above(make_run):
    """One step of SGD moves a weight by rate * gradient; the gradient is that of decay 1."""
    moved = {}
    for decay in (1.0, 0.25):
        rates = {"backbone_rate": 1e-2, "schedule": "constant"}
        run = make_run(f"decay {decay}", stages=(stage(steps=1, layer_decay=decay, **rates),))
        run.config.optimizer.name = "sgd"
        run = type(run)(run.config, run.records, run.workdir, run.strategy)
        before = {v.path: v.numpy() for v in run.embedder.backbone.trainable_variables}
        Trainer(run).run()
        after = {v.path: v.numpy() for v in run.embedder.backbone.trainable_variables}
        moved[decay] = [after[path] - before[path] for path in before]
        depth_of = [depths(run.embedder.backbone)[path] for path in before]
    top = len(set(depth_of)) - 1
    assert top >= 1
    for depth, plain, decayed in zip(depth_of, moved[1.0], moved[0.25], strict=True):
        assert np.abs(plain).max() > 0
        expected = plain * 0.25 ** (top * (1 - depth))
        np.testing.assert_allclose(decayed, expected, rtol=1e-3, atol=1e-7)
