"""Every family of KerasHub, tiny and random, through save_to_preset: one harness for all."""

import functools
import tempfile
import weakref
from pathlib import Path

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from tiny_presets import CONFIGS, SIZE, tiny

from universal_embedding.errors import UserError
from universal_embedding.models.backbones import (
    depths,
    from_json,
    load_backbone,
    number_of_depths,
    presets,
    to_json,
)
from universal_embedding.models.backbones.depths import block_names
from universal_embedding.models.backbones.families import FAMILIES

TRANSFORMERS = [
    "CLIPBackbone",
    "MetaCLIP2Backbone",
    "SigLIPBackbone",
    "ViTBackbone",
    "DeiTBackbone",
    "DINOV2Backbone",
    "DINOV3Backbone",
]


def _marked(families, fast):
    slow = [
        pytest.param(family, marks=pytest.mark.slow) for family in families if family not in fast
    ]
    return pytest.mark.parametrize("family", [f for f in families if f in fast] + slow)


each_family = _marked(CONFIGS, {*TRANSFORMERS, "EfficientNetBackbone"} - {"DeiTBackbone"})
each_family_slowly = _marked(CONFIGS, {"CLIPBackbone", "DINOV2Backbone", "EfficientNetBackbone"})
each_transformer = _marked(TRANSFORMERS, TRANSFORMERS)
each_transformer_slowly = _marked(TRANSFORMERS, {"DINOV3Backbone"})


def _pictures(size=SIZE):
    """Three smooth pictures, the same at every size."""
    waves = np.random.default_rng(0).uniform(0.5, 2, (3, 1, 1, 3, 2))
    y, x = np.meshgrid(*[(np.arange(size) + 0.5) / size] * 2, indexing="ij")
    phase = waves[..., 0] * y[None, :, :, None] + waves[..., 1] * x[None, :, :, None]
    return (127.5 + 120 * np.sin(2 * np.pi * phase)).astype("float32")


@functools.cache
def _preset(family):
    folder = str(Path(tempfile.mkdtemp()) / family)
    tiny(family).save_to_preset(folder)
    return folder


@functools.cache
def _backbone(family):
    return load_backbone(_preset(family), SIZE)


def _kerashub_features(family, pictures):
    """What KerasHub's own objects give, called as their documentation says."""
    mean, std = (np.array(x, "float32") for x in FAMILIES[family].mean_std)
    pictures = (pictures / 255 - mean) / std
    model = keras_hub.models.Backbone.from_preset(_preset(family))
    if family == "MetaCLIP2Backbone":
        return model.vision_post_layer_norm(model.vision_encoder(pictures)[:, 0])
    if family == "CLIPBackbone":
        return model.vision_encoder(pictures)[:, 0]
    if family.startswith("SigLIP"):
        return getattr(model, "vision_encoder", model)(pictures)
    outputs = model(pictures)
    outputs = list(outputs.values())[-1] if isinstance(outputs, dict) else outputs
    return outputs[:, 0] if len(outputs.shape) == 3 else np.mean(outputs, axis=(1, 2))


def test_every_family_has_a_tiny_model():
    assert set(FAMILIES) == set(CONFIGS)


@each_family
def test_features_are_kerashubs_own(family):
    features = _backbone(family)(_pictures())
    assert features.shape == (3, _backbone(family).output_shape[1])
    expected = _kerashub_features(family, _pictures())
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    assert np.std(features, axis=0).max() > 1e-3  # pictures differ


@each_family_slowly
def test_batch_equals_singles_and_xla(family):
    pictures, backbone = _pictures(), _backbone(family)
    batch = backbone(pictures)
    singles = np.concatenate([backbone(pictures[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(batch, singles, rtol=1e-5, atol=1e-5)
    compiled = tf.function(lambda x: backbone(x, training=False), jit_compile=True)
    np.testing.assert_allclose(compiled(pictures), batch, rtol=1e-4, atol=1e-5)


@each_family_slowly
def test_rebuilt_from_json_and_weights(family, tmp_path):
    backbone, pictures = from_json(to_json(_backbone(family))), _pictures()
    rng = np.random.default_rng(1)
    for weight in backbone.trainable_weights:  # as after training
        weight.assign(weight + rng.normal(0, 0.01, weight.shape))
    trained = backbone(pictures)
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
        np.testing.assert_array_equal(fresh(pictures), trained)


@each_family
def test_another_picture_size(family):
    bigger = load_backbone(_preset(family), 2 * SIZE)
    assert np.isfinite(bigger(_pictures(2 * SIZE))).all()
    colours = np.random.default_rng(0).uniform(0, 255, (3, 1, 1, 3)).astype("float32")
    native = _backbone(family)(np.tile(colours, (1, SIZE, SIZE, 1)))
    features = bigger(np.tile(colours, (1, 2 * SIZE, 2 * SIZE, 1)))
    assert features.shape == native.shape
    # Every patch is the same at both sizes: all that differs is its position's embedding.
    if family in TRANSFORMERS:
        assert np.min(-keras.losses.cosine_similarity(native, features)) > 0.8


@each_transformer_slowly
def test_gradient_checkpointing_changes_no_gradient(family):
    pictures = _pictures()
    plain, remat = _backbone(family), load_backbone(_preset(family), SIZE, remat=True)
    assert len(block_names(remat)) == 2

    def gradients(backbone):
        @tf.function(jit_compile=True)
        def run():
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(tf.square(backbone(pictures, training=True)))
            found = tape.gradient(loss, backbone.trainable_variables)
            return [tf.convert_to_tensor(g) for g in found if g is not None]

        return run()

    for one, other in zip(gradients(plain), gradients(remat), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


@each_transformer_slowly
def test_mixed_precision(family):
    backbone = load_backbone(_preset(family), SIZE, dtype="mixed_bfloat16")
    assert {weight.dtype for weight in backbone.trainable_weights} == {"float32"}
    blocks = [
        layer for layer in backbone._flatten_layers() if isinstance(layer, keras.layers.Dense)
    ]
    assert blocks
    assert {layer.compute_dtype for layer in blocks} == {"bfloat16"}
    features = keras.ops.cast(backbone(_pictures()), "float32")
    full = _backbone(family)(_pictures())
    assert np.min(-keras.losses.cosine_similarity(features, full)) > 0.999


@each_family
def test_depths_rise(family):
    found = depths(_backbone(family))
    assert list(found) == [weight.path for weight in _backbone(family).weights]
    assert list(found.values()) == sorted(found.values())
    assert (next(iter(found.values())), max(found.values())) == (0, 1)


@each_transformer
def test_depths_of_blocks(family):
    found = depths(_backbone(family))
    assert number_of_depths(_backbone(family)) == 4  # embedding, two blocks, the end
    for path, depth in found.items():
        if "patch_embedding" in path or "position" in path:
            assert depth == 0
        if "_1/attention" in path or "_1/self_attn" in path or "block_2" in path:
            assert depth == pytest.approx(2 / 3)


@pytest.mark.parametrize("family", ["CLIPBackbone", "SigLIPBackbone", "MetaCLIP2Backbone"])
def test_text_tower_is_gone(family, monkeypatch):
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
def test_projection_is_kerashubs_own(family):
    features = load_backbone(_preset(family), SIZE, pooling="projection")(_pictures())
    model = keras_hub.models.Backbone.from_preset(_preset(family))
    mean, std = (np.array(x, "float32") for x in FAMILIES[family].mean_std)
    expected = model.get_vision_embeddings((_pictures() / 255 - mean) / std)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)


def test_mean_leaves_class_token_and_registers_out():
    features = load_backbone(_preset("DINOV2Backbone"), SIZE, pooling="mean")(_pictures())
    model = keras_hub.models.Backbone.from_preset(_preset("DINOV2Backbone"))
    mean, std = (np.array(x, "float32") for x in FAMILIES["DINOV2Backbone"].mean_std)
    tokens = model((_pictures() / 255 - mean) / std)
    assert tokens.shape[1] == 1 + 2 + 16
    np.testing.assert_allclose(features, np.mean(tokens[:, 3:], axis=1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "gem"])
def test_siglip_pooled_otherwise_at_another_size(pooling):
    native = load_backbone(_preset("SigLIPBackbone"), SIZE, pooling=pooling)
    features = native(_pictures())
    assert not any("head" in weight.path for weight in native.weights)
    bigger = load_backbone(_preset("SigLIPBackbone"), 2 * SIZE, pooling=pooling)
    cosines = -keras.losses.cosine_similarity(features, bigger(_pictures(2 * SIZE)))
    assert np.min(cosines) > 0.8


def test_image_converter_of_the_preset_is_used(tmp_path):
    folder = str(tmp_path / "clip")
    tiny("CLIPBackbone").save_to_preset(folder)
    converter = keras_hub.layers.CLIPImageConverter(
        image_size=(SIZE, SIZE), scale=[0.01, 0.02, 0.03], offset=[-1.0, 0.5, 0.25]
    )
    converter.save_to_preset(folder)
    model = keras_hub.models.Backbone.from_preset(folder)
    expected = model.vision_encoder(converter(_pictures()))[:, 0]
    np.testing.assert_allclose(load_backbone(folder, SIZE)(_pictures()), expected, atol=1e-5)


def test_saved_model_holds_every_weight(tmp_path):
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
    np.testing.assert_allclose(served(_pictures()), backbone(_pictures()), atol=1e-6)


def test_kerashub_resizes_dinov2_positions_alike():
    folder = _preset("DINOV2Backbone")
    shape = (3 * SIZE, 3 * SIZE, 3)
    model = keras_hub.models.Backbone.from_preset(folder, image_shape=shape)
    mean, std = (np.array(x, "float32") for x in FAMILIES["DINOV2Backbone"].mean_std)
    expected = model((_pictures(3 * SIZE) / 255 - mean) / std)[:, 0]
    features = load_backbone(folder, 3 * SIZE)(_pictures(3 * SIZE))
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)


def test_errors(tmp_path, monkeypatch):
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


def test_names_are_of_pictures():
    names = presets.names()
    assert {"clip_vit_h_14_laion2b_s32b_b79k", "dinov2_base"} <= set(names)
    assert not [name for name in names if "bert" in name]
