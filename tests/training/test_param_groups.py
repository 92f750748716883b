"""Weight decay, clipping and layer-wise learning rates, each against its formula."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.tiny_presets import make_tiny_model
from universal_embedding.errors import UserError
from universal_embedding.models.backbones import layer_depths
from universal_embedding.training.config import base_config, stage
from universal_embedding.training.hooks import default_hooks
from universal_embedding.training.param_groups import (
    StageLearningRate,
    clip_by_global_norm,
    has_weight_decay,
    make_optimizer,
)
from universal_embedding.training.schedule import read_stages
from universal_embedding.training.trainer import train


def make_head_optimizer(variables, name, weight_decay=0.0):
    config = base_config()
    config.stages = (stage(steps=10, head_lr=0.1, schedule="constant"),)
    stages = read_stages(config)
    step = tf.Variable(0, dtype=tf.int64)
    learning_rate = StageLearningRate(stages, "head", 0, step)
    return make_optimizer(name, variables, learning_rate, weight_decay)


@pytest.mark.parametrize("name", ["adamw", "sgd", "lamb"])
def test_weight_decay_excludes_norms_and_biases(name):
    kernel = keras.Variable(np.full((2, 3), 2.0, np.float32), name="kernel")
    bias = keras.Variable(np.full(3, 2.0, np.float32), name="bias")
    norm = keras.layers.LayerNormalization()
    norm.build((None, 3))
    variables = [kernel, bias, *norm.trainable_variables]
    before = [variable.numpy() for variable in variables]
    optimizer = make_head_optimizer(variables, name, weight_decay=0.5)
    optimizer.apply([tf.zeros(variable.shape) for variable in variables], variables)
    np.testing.assert_allclose(kernel, before[0] * (1 - 0.5 * 0.1), rtol=1e-6)
    for old, new in zip(before[1:], variables[1:], strict=True):
        np.testing.assert_array_equal(old, new.numpy())


SUPPORTED = (
    *("adadelta", "adafactor", "adagrad", "adam", "adamax", "adamw", "ftrl", "lamb", "lion"),
    *("muon", "nadam", "rmsprop", "sgd"),
)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("name", SUPPORTED)
def test_every_supported_optimizer_reduces_a_quadratic_loss(name, weight_decay):
    kernel = keras.Variable(np.full((4, 3), 2.0, np.float32), name="kernel")
    optimizer = make_head_optimizer([kernel], name, weight_decay)
    before = float(tf.reduce_sum(tf.square(kernel.value)))
    for _ in range(10):
        optimizer.apply([2 * kernel.value], [kernel])
    assert float(tf.reduce_sum(tf.square(kernel.value))) < before


@pytest.mark.parametrize(
    "name", ["optimizer", "LossScaleOptimizer", "MultiOptimizer", "ScheduleFreeAdamW"]
)
def test_an_optimizer_that_needs_special_treatment_is_refused_by_name(name):
    with pytest.raises(UserError, match=f"config.optimizer.name is '{name}', .*; use one of adad"):
        make_head_optimizer([keras.Variable(1.0)], name)


def test_unknown_optimizer_is_named():
    with pytest.raises(UserError, match=r"adamm.*adamw"):
        make_head_optimizer([keras.Variable(1.0)], "adamm")


@pytest.mark.parametrize("clip_norm", [0.0, 2.0, 5.0, 20.0])
def test_clipping_equals_closed_form_over_all_groups_together(clip_norm):
    rng = np.random.default_rng(0)
    gradients = {
        "a": [np.float32(rng.normal(size=(3, 4))), np.float32(rng.normal(size=5))],
        "b": [np.float32(3 * rng.normal(size=(2, 2)))],
    }
    norm = math.sqrt(sum(float((g**2).sum()) for group in gradients.values() for g in group))
    assert 5 < norm < 20
    tensors = {name: [tf.constant(g) for g in group] for name, group in gradients.items()}
    clipped, norm_before = clip_by_global_norm(tensors, clip_norm)
    assert float(norm_before) == pytest.approx(norm, rel=1e-5)
    factor = min(1.0, clip_norm / norm) if clip_norm else 1.0
    assert clipped.keys() == gradients.keys()
    for name, group in gradients.items():
        for actual, original in zip(clipped[name], group, strict=True):
            np.testing.assert_allclose(actual, original * factor, rtol=1e-5)


def test_layer_decay_scales_each_depth_by_power_of_depths_above(make_experiment, config):
    """One step of SGD moves a weight by rate * gradient; the gradient is that of decay 1."""
    config.optimizer.name = "sgd"
    changes = {}
    for decay in (1.0, 0.25):
        rates = {"backbone_lr": 1e-2, "schedule": "constant"}
        stages = (stage(steps=1, layer_decay=decay, **rates),)
        experiment = make_experiment(f"decay {decay}", stages=stages)
        backbone = experiment.model.backbone
        before = {v.path: v.numpy() for v in backbone.trainable_variables}
        train(experiment, default_hooks(experiment))
        after = {v.path: v.numpy() for v in backbone.trainable_variables}
        changes[decay] = [after[path] - before[path] for path in before]
        depths = [layer_depths(backbone)[path] for path in before]
    max_depth = len(set(depths)) - 1
    assert max_depth >= 1
    for depth, plain, decayed in zip(depths, changes[1.0], changes[0.25], strict=True):
        assert np.abs(plain).max() > 0
        expected = plain * 0.25 ** (max_depth * (1 - depth))
        np.testing.assert_allclose(decayed, expected, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize(
    ("family", "excluded"),
    [
        ("ViTBackbone", {"class_token", "embeddings", "bias"}),
        ("DINOV2Backbone", {"cls_token", "register_tokens", "interpolated_position_embeddings"}),
        ("SwinTransformerBackbone", {"relative_position_bias_table"}),
    ],
)
def test_weight_decay_excludes_tokens_positions_and_biases_of_attention(family, excluded):
    variables = make_tiny_model(family).trainable_variables
    matrices = [v for v in variables if len(v.shape) >= 2]
    decayed = {v.path.split("/")[-1] for v in matrices if has_weight_decay(v)}
    others = {v.path.split("/")[-1] for v in matrices if not has_weight_decay(v)}
    assert excluded <= others
    assert decayed == {"kernel"}
