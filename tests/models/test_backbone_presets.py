"""Tests of every KerasHub family, tiny and random, loaded from save_to_preset directories."""

import functools
import tempfile
import weakref
from pathlib import Path

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.tiny_presets import CONFIGS, SIZE, make_tiny_model
from universal_embedding.errors import UserError
from universal_embedding.models.backbones import (
    block_names,
    from_json,
    layer_depths,
    load_backbone,
    num_depths,
    to_json,
)
from universal_embedding.models.backbones.presets import PRESET_FAMILIES
from universal_embedding.private_apis import flatten_layers

TRANSFORMERS = [
    "CLIPBackbone",
    "MetaCLIP2Backbone",
    "SigLIPBackbone",
    "ViTBackbone",
    "DeiTBackbone",
    "DINOV2Backbone",
    "DINOV3Backbone",
]


def _parametrize(families, fast):
    slow = [
        pytest.param(family, marks=pytest.mark.slow) for family in families if family not in fast
    ]
    return pytest.mark.parametrize("family", [f for f in families if f in fast] + slow)


each_family = _parametrize(CONFIGS, {*TRANSFORMERS, "EfficientNetBackbone"} - {"DeiTBackbone"})
few_families = _parametrize(CONFIGS, {"CLIPBackbone", "DINOV2Backbone", "EfficientNetBackbone"})
each_transformer = _parametrize(TRANSFORMERS, TRANSFORMERS)
few_transformers = _parametrize(TRANSFORMERS, {"DINOV3Backbone"})


def _images(size=SIZE):
    """Three smooth images, the same at every size."""
    waves = np.random.default_rng(0).uniform(0.5, 2, (3, 1, 1, 3, 2))
    y, x = np.meshgrid(*[(np.arange(size) + 0.5) / size] * 2, indexing="ij")
    phase = waves[..., 0] * y[None, :, :, None] + waves[..., 1] * x[None, :, :, None]
    return (127.5 + 120 * np.sin(2 * np.pi * phase)).astype("float32")


@functools.cache
def _preset(family):
    folder = str(Path(tempfile.mkdtemp()) / family)
    make_tiny_model(family).save_to_preset(folder)
    return folder


@functools.cache
def _backbone(family):
    return load_backbone(_preset(family), SIZE)


def _kerashub_features(family, images):
    """Features of KerasHub's own objects, called as in their documentation."""
    mean, std = (np.array(x, "float32") for x in PRESET_FAMILIES[family].mean_std)
    images = (images / 255 - mean) / std
    model = keras_hub.models.Backbone.from_preset(_preset(family))
    if family == "MetaCLIP2Backbone":
        return model.vision_post_layer_norm(model.vision_encoder(images)[:, 0])
    if family == "CLIPBackbone":
        return model.vision_encoder(images)[:, 0]
    if family.startswith("SigLIP"):
        return getattr(model, "vision_encoder", model)(images)
    outputs = model(images)
    outputs = list(outputs.values())[-1] if isinstance(outputs, dict) else outputs
    return outputs[:, 0] if len(outputs.shape) == 3 else np.mean(outputs, axis=(1, 2))


def test_every_family_has_a_tiny_model():
    assert set(PRESET_FAMILIES) == set(CONFIGS)


@each_family
def test_features_equal_those_of_kerashub(family):
    features = _backbone(family)(_images())
    assert features.shape == (3, _backbone(family).output_shape[1])
    expected = _kerashub_features(family, _images())
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    assert np.std(features, axis=0).max() > 1e-3  # images differ


@few_families
def test_batch_equals_single_images_and_xla(family):
    images, backbone = _images(), _backbone(family)
    batch = backbone(images)
    singles = np.concatenate([backbone(images[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(batch, singles, rtol=1e-5, atol=1e-5)
    compiled = tf.function(lambda x: backbone(x, training=False), jit_compile=True)
    np.testing.assert_allclose(compiled(images), batch, rtol=1e-4, atol=1e-5)


@few_families
def test_features_survive_rebuilding_from_json_and_weights(family, tmp_path):
    backbone, images = from_json(to_json(_backbone(family))), _images()
    rng = np.random.default_rng(1)
    for weight in backbone.trainable_weights:  # as after training
        weight.assign(weight + rng.normal(0, 0.01, weight.shape))
    trained = backbone(images)
    backbone.save_weights(tmp_path / "all.weights.h5")
    checkpoint = tf.train.Checkpoint(model=backbone).save(tmp_path / "checkpoint")
    text = to_json(backbone)
    for by_keras in (True, False):
        fresh = from_json(text)
        if by_keras:
            fresh.load_weights(tmp_path / "all.weights.h5")
        else:
            status = tf.train.Checkpoint(model=fresh).restore(checkpoint)
            status.assert_existing_objects_matched()
        np.testing.assert_array_equal(fresh(images), trained)


@each_family
def test_features_stay_close_at_another_image_size(family):
    larger = load_backbone(_preset(family), 2 * SIZE)
    assert np.isfinite(larger(_images(2 * SIZE))).all()
    colors = np.random.default_rng(0).uniform(0, 255, (3, 1, 1, 3)).astype("float32")
    native = _backbone(family)(np.tile(colors, (1, SIZE, SIZE, 1)))
    features = larger(np.tile(colors, (1, 2 * SIZE, 2 * SIZE, 1)))
    assert features.shape == native.shape
    # All patches are equal at both sizes; only their position embeddings differ.
    if family in TRANSFORMERS:
        assert np.min(-keras.losses.cosine_similarity(native, features)) > 0.8


@few_transformers
def test_gradient_checkpointing_keeps_the_gradients(family):
    images = _images()
    stored, remat = _backbone(family), load_backbone(_preset(family), SIZE, remat=True)
    assert len(block_names(remat)) == 2

    def gradients(backbone):
        @tf.function(jit_compile=True)
        def run():
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(tf.square(backbone(images, training=True)))
            grads = tape.gradient(loss, backbone.trainable_variables)
            return [tf.convert_to_tensor(g) for g in grads if g is not None]

        return run()

    for expected, actual in zip(gradients(stored), gradients(remat), strict=True):
        np.testing.assert_allclose(expected, actual, rtol=1e-3, atol=1e-4)


@few_transformers
def test_mixed_precision_computes_in_bfloat16_on_float32_weights(family):
    backbone = load_backbone(_preset(family), SIZE, dtype="mixed_bfloat16")
    assert {weight.dtype for weight in backbone.trainable_weights} == {"float32"}
    layers = [layer for layer in flatten_layers(backbone) if isinstance(layer, keras.layers.Dense)]
    assert layers
    assert {layer.compute_dtype for layer in layers} == {"bfloat16"}
    features = keras.ops.cast(backbone(_images()), "float32")
    full = _backbone(family)(_images())
    assert np.min(-keras.losses.cosine_similarity(features, full)) > 0.999


@each_family
def test_depths_rise_from_zero_to_one(family):
    depths = layer_depths(_backbone(family))
    assert list(depths) == [weight.path for weight in _backbone(family).weights]
    assert list(depths.values()) == sorted(depths.values())
    assert (next(iter(depths.values())), max(depths.values())) == (0, 1)


@each_transformer
def test_each_transformer_block_has_its_depth(family):
    assert num_depths(_backbone(family)) == 4  # embedding, two blocks, the end
    for path, depth in layer_depths(_backbone(family)).items():
        if "patch_embedding" in path or "position" in path:
            assert depth == 0
        if "_1/attention" in path or "_1/self_attn" in path or "block_2" in path:
            assert depth == pytest.approx(2 / 3)


@pytest.mark.parametrize("family", ["CLIPBackbone", "SigLIPBackbone", "MetaCLIP2Backbone"])
def test_text_tower_is_freed(family, monkeypatch):
    weights = []

    def from_preset(*args, load=keras_hub.models.Backbone.from_preset, **kwargs):
        model = load(*args, **kwargs)
        weights.extend(weakref.ref(weight) for weight in model.text_encoder.weights)
        return model

    monkeypatch.setattr(keras_hub.models.Backbone, "from_preset", from_preset)
    backbone = load_backbone(_preset(family), SIZE)
    assert weights
    assert not [weight for weight in weights if weight() is not None]
    assert not [weight.path for weight in backbone.weights if "text" in weight.path]


@pytest.mark.parametrize("family", ["CLIPBackbone", "MetaCLIP2Backbone"])
def test_projection_equals_that_of_kerashub(family):
    features = load_backbone(_preset(family), SIZE, pooling="projection")(_images())
    model = keras_hub.models.Backbone.from_preset(_preset(family))
    mean, std = (np.array(x, "float32") for x in PRESET_FAMILIES[family].mean_std)
    expected = model.get_vision_embeddings((_images() / 255 - mean) / std)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)


def test_mean_pooling_excludes_class_token_and_registers():
    features = load_backbone(_preset("DINOV2Backbone"), SIZE, pooling="mean")(_images())
    model = keras_hub.models.Backbone.from_preset(_preset("DINOV2Backbone"))
    mean, std = (np.array(x, "float32") for x in PRESET_FAMILIES["DINOV2Backbone"].mean_std)
    tokens = model((_images() / 255 - mean) / std)
    assert tokens.shape[1] == 1 + 2 + 16
    np.testing.assert_allclose(features, np.mean(tokens[:, 3:], axis=1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "gem"])
def test_siglip_without_its_pooling_head_works_at_another_size(pooling):
    native = load_backbone(_preset("SigLIPBackbone"), SIZE, pooling=pooling)
    features = native(_images())
    assert not any("head" in weight.path for weight in native.weights)
    larger = load_backbone(_preset("SigLIPBackbone"), 2 * SIZE, pooling=pooling)
    cosines = -keras.losses.cosine_similarity(features, larger(_images(2 * SIZE)))
    assert np.min(cosines) > 0.8


def test_preset_image_converter_is_used(tmp_path):
    folder = str(tmp_path / "clip")
    make_tiny_model("CLIPBackbone").save_to_preset(folder)
    converter = keras_hub.layers.CLIPImageConverter(
        image_size=(SIZE, SIZE), scale=[0.01, 0.02, 0.03], offset=[-1.0, 0.5, 0.25]
    )
    converter.save_to_preset(folder)
    model = keras_hub.models.Backbone.from_preset(folder)
    expected = model.vision_encoder(converter(_images()))[:, 0]
    np.testing.assert_allclose(load_backbone(folder, SIZE)(_images()), expected, atol=1e-5)


def test_saved_model_contains_every_weight(tmp_path):
    backbone = _backbone("DINOV2Backbone")

    class Served(tf.Module):
        def __init__(self):
            super().__init__()
            self.backbone = backbone

        @tf.function(input_signature=[tf.TensorSpec([None, SIZE, SIZE, 3])])
        def __call__(self, images):
            return self.backbone(images)

    tf.saved_model.save(Served(), str(tmp_path))
    served = tf.saved_model.load(str(tmp_path))
    np.testing.assert_allclose(served(_images()), backbone(_images()), atol=1e-6)


def test_dinov2_positions_are_resized_as_by_kerashub():
    folder = _preset("DINOV2Backbone")
    shape = (3 * SIZE, 3 * SIZE, 3)
    model = keras_hub.models.Backbone.from_preset(folder, image_shape=shape)
    mean, std = (np.array(x, "float32") for x in PRESET_FAMILIES["DINOV2Backbone"].mean_std)
    expected = model((_images(3 * SIZE) / 255 - mean) / std)[:, 0]
    features = load_backbone(folder, 3 * SIZE)(_images(3 * SIZE))
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)


def test_unusable_preset_is_a_user_error(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="nearest names: siglip2_base_patch16_224"):
        load_backbone("siglip2_base_patch16_22")
    with pytest.raises(UserError, match=r"'dinov2_small' cannot be loaded \(offline\).*save_to"):
        monkeypatch.setattr(keras_hub.models.Backbone, "from_preset", _offline)
        load_backbone("dinov2_small")
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"cannot be loaded"):
        load_backbone(str(tmp_path))
    keras_hub.models.BertBackbone(20, 1, 2, 8, 16).save_to_preset(str(tmp_path / "bert"))
    with pytest.raises(UserError, match="is a BertBackbone, not one of"):
        load_backbone(str(tmp_path / "bert"))
    with pytest.raises(UserError, match=r"pooling is 'token'; .* has"):
        load_backbone(_preset("EfficientNetBackbone"), SIZE, pooling="token")
    with pytest.raises(UserError, match="has no projection"):
        load_backbone(_preset("ViTBackbone"), SIZE, pooling="projection")
    with pytest.raises(UserError, match="image size 36: Input height 36 should be divisible"):
        load_backbone(_preset("ViTBackbone"), 36)
    with pytest.raises(UserError, match="needs a transformer"):
        load_backbone(_preset("EfficientNetBackbone"), SIZE, remat=True)


def _offline(*args, **kwargs):
    raise ConnectionError("offline")
