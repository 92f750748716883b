"""Stochastic depth: paths that are dropped while the statistics of batch norm stay."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.steps import state_of, take_steps
from tests.helpers.tiny_presets import CONFIGS, SIZE
from universal_embedding.errors import UserError
from universal_embedding.models.backbones import load_backbone, rebuild, resize_backbone
from universal_embedding.models.backbones.drop_path import drop_path_rates, stochastic_depth
from universal_embedding.private_apis import flatten_layers
from universal_embedding.training.config import stage
from universal_embedding.training.stochastic_depth import drop_paths
from universal_embedding.training.strategy import mirrored

RATES = (0.5, 0.3)
LEARNING_RATES = {"backbone_lr": 1e-2, "projection_lr": 1e-2, "head_lr": 1e-2}


def save_residual_backbone(path, rates=RATES):
    """Two residual branches with batch norm, each with a drop path where its rate is not 0."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Rescaling(1 / 128, -1)(inputs)
    x = keras.layers.Conv2D(6, 3, strides=4, name="stem")(x)
    for i, rate in enumerate(rates):
        conv = keras.layers.Conv2D(6, 3, padding="same", use_bias=False, name=f"conv{i}")
        branch = conv(x)
        branch = keras.layers.BatchNormalization(name=f"norm{i}")(branch)
        if rate:
            drop = keras.layers.Dropout(rate, noise_shape=(None, 1, 1, 1), name=f"drop{i}")
            branch = drop(branch)
        x = keras.layers.Add()([x, branch])
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    for i in range(len(rates)):
        norm = model.get_layer(f"norm{i}")
        norm.moving_mean.assign(np.linspace(-0.2, 0.3, 6))
        norm.moving_variance.assign(np.linspace(0.5, 1.5, 6))
    model.save(path)
    return str(path)


@pytest.fixture
def config(config, tmp_path):
    config.model.backbone = save_residual_backbone(tmp_path / "residual.keras")
    config.stages = (stage(steps=3, stochastic_depth=True, **LEARNING_RATES),)
    return config


def find_layer(backbone, name):
    return next(layer for layer in flatten_layers(backbone) if layer.name == name)


def naive_features(backbone, images, kept):
    """The features of each image on its own, `kept[i, p]` being whether it has path p."""
    layer, rows = functools.partial(find_layer, backbone), []
    for image, paths in zip(images, kept, strict=True):
        x = layer("stem")(image[None] / 128 - 1)
        for i, is_kept in enumerate(paths):
            if is_kept:
                x += layer(f"norm{i}")(layer(f"conv{i}")(x)) / (1 - RATES[i])
        rows.append(tf.reduce_mean(x, [1, 2])[0])
    return np.array(rows)


@pytest.mark.parametrize("image_size", [16, pytest.param(24, marks=pytest.mark.slow)])
def test_each_image_loses_the_paths_whose_noise_is_below_their_rate(config, image_size):
    backbone = load_backbone(config.model.backbone, 16)
    assert sorted(drop_path_rates(backbone)) == sorted(RATES)
    resized = resize_backbone(backbone, image_size)
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (8, image_size, image_size, 3)).astype(np.float32)
    noise = rng.uniform(size=(8, 2)).astype(np.float32)
    with stochastic_depth(lambda path: tf.constant(noise[:, path])):
        actual = resized(images)
    kept = noise >= RATES
    assert 0 < kept.mean() < 1
    np.testing.assert_allclose(actual, naive_features(backbone, images, kept), rtol=2e-5, atol=1e-5)
    for training in (False, True):  # outside of the context nothing is dropped
        for name in ("norm0", "norm1"):
            find_layer(backbone, name).trainable = False
        plain = rebuild(load_backbone(config.model.backbone, 16))(images[:, :16, :16])
        np.testing.assert_array_equal(backbone(images[:, :16, :16], training=training), plain)


def test_share_of_dropped_paths_is_their_rate_and_changes_with_step_and_path(config):
    def kept_paths(step):
        kept = []

        def noise(seed):
            return tf.random.stateless_uniform([4000], seed)

        options = (stage(stochastic_depth=True), 7, tf.constant(step, tf.int64), noise)
        with drop_paths(*options):
            backbone = load_backbone(config.model.backbone, 16)
            for i in range(2):
                path = find_layer(backbone, f"drop{i}")(tf.ones([4000, 1, 1, 1]))
                kept.append(path.numpy().ravel())
        return np.array(kept)

    first, second = kept_paths(0), kept_paths(1)
    for values, rate in zip(first, RATES, strict=True):
        assert set(np.round(values, 5)) == {0.0, np.float32(round(1 / (1 - rate), 5))}
        assert np.mean(values == 0) == pytest.approx(rate, abs=0.03)
    np.testing.assert_array_equal(first, kept_paths(0))
    for other in (second[0], first[1]):
        both = np.mean((first[0] == 0) & (other == 0))
        assert both == pytest.approx(RATES[0] * np.mean(other == 0), abs=0.03)


def statistics(experiment):
    layers = [find_layer(experiment.model.backbone, f"norm{i}") for i in range(2)]
    return [v.numpy() for layer in layers for v in layer.non_trainable_variables]


def train_steps(make_experiment, folder, strategy=None, start=None, **stage_fields):
    """Trains two steps; returns the experiment, its state before, its statistics, the losses."""
    experiment = make_experiment(
        folder, strategy, stages=(stage(steps=2, **LEARNING_RATES, **stage_fields),)
    )
    for owner, values in (start or {}).items():
        for variable, value in zip(experiment.checkpoint_state()[owner], values, strict=True):
            variable.assign(value)
    state, before = state_of(experiment), statistics(experiment)
    start = {owner: state[owner] for owner in ("model", "heads")}
    return experiment, start, before, take_steps(experiment, experiment.stages[0])


def test_frozen_statistics_stay_while_paths_are_dropped(make_experiment, config):
    on, _, before, losses = train_steps(make_experiment, "on", stochastic_depth=True)
    off, _, _, other_losses = train_steps(make_experiment, "off")
    for experiment in (on, off):
        for a, b in zip(statistics(experiment), before, strict=True):
            np.testing.assert_array_equal(a, b)
    assert np.abs(losses[0] - other_losses[0]).max() > 1e-3
    kernels = [find_layer(e.model.backbone, "conv0").kernel.numpy() for e in (on, off)]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("freeze_batch_norm", [True, False])
def test_without_the_field_no_path_is_dropped(make_experiment, config, freeze_batch_norm, tmp_path):
    config.model.freeze_batch_norm = freeze_batch_norm
    _, start, before, losses = train_steps(make_experiment, "paths")
    config.model.backbone = save_residual_backbone(tmp_path / "no_paths.keras", rates=(0, 0))
    experiment, *_, other_losses = train_steps(make_experiment, "no paths", start=start)
    np.testing.assert_array_equal(losses[0], other_losses[0])
    changed = [(a != b).any() for a, b in zip(statistics(experiment), before, strict=True)]
    assert all(changed) if not freeze_batch_norm else not any(changed)


@pytest.mark.slow
@pytest.mark.parametrize("freeze_batch_norm", [True, False])
def test_paths_do_not_depend_on_replicas_or_slices_of_the_batch(
    make_experiment, config, freeze_batch_norm
):
    config.model.freeze_batch_norm = freeze_batch_norm
    one, *_, losses = train_steps(make_experiment, "one", stochastic_depth=True)
    others = [("two", mirrored(2), 1)]
    others += [("sliced", None, 3), ("both", mirrored(2), 2)] if freeze_batch_norm else []
    for folder, strategy, num_slices in others:
        config.optimizer.gradient_accumulation_steps = num_slices
        other, *_, other_losses = train_steps(
            make_experiment, folder, strategy, stochastic_depth=True
        )
        np.testing.assert_allclose(other_losses[0], losses[0], rtol=1e-4, atol=1e-5)
        for a, b in zip(state_of(one)["model"], state_of(other)["model"], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_stochastic_depth_that_cannot_act_is_refused(make_experiment, config, tmp_path):
    with pytest.raises(UserError, match=r"stochastic_depth is True; it must be False without"):
        make_experiment(stages=(stage(steps=1, stochastic_depth=True, head_lr=1e-2),))
    config.model.backbone = save_residual_backbone(tmp_path / "no_paths.keras", rates=(0, 0))
    with pytest.raises(UserError, match="no residual path with a drop rate"):
        train_steps(make_experiment, "none", stochastic_depth=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("EfficientNetBackbone", {}),
        ("MiTBackbone", {"max_drop_path_rate": 0.5}),
        ("SwinTransformerBackbone", {"drop_path_rate": 0.5}),
        ("DINOV2Backbone", {"drop_path_rate": 0.5}),
    ],
)
def test_paths_of_presets_are_dropped(family, options):
    import keras_hub

    keras.utils.set_random_seed(0)
    model = getattr(keras_hub.models, family)(**{**CONFIGS[family], **options})
    inputs = keras.Input((SIZE, SIZE, 3))
    outputs = keras.tree.flatten(model(inputs))[-1]
    backbone = rebuild(keras.Model(inputs, outputs))
    assert drop_path_rates(backbone)
    images = np.random.default_rng(0).uniform(size=(6, SIZE, SIZE, 3)).astype(np.float32)
    plain = backbone(images).numpy()
    with stochastic_depth(lambda _: tf.constant([0.0, 1, 0, 1, 0, 1])):
        actual = backbone(images).numpy()
    with stochastic_depth(lambda _: tf.zeros([6])):
        without = backbone(images).numpy()
    np.testing.assert_allclose(actual[::2], without[::2], atol=1e-5)  # all paths dropped
    assert np.abs(actual[1::2] - without[1::2]).max() > 1e-4  # kept, and scaled up
    assert np.abs(actual - plain).max() > 1e-4
    np.testing.assert_array_equal(backbone(images, training=False), plain)
