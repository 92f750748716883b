"""Tests of Keras files and keras.applications as backbones, and of the list of names."""

import keras
import numpy as np
import pytest

from universal_embedding.errors import UserError
from universal_embedding.models.backbones import (
    layer_depths,
    list_backbones,
    load_backbone,
    rebuild,
)
from universal_embedding.models.backbones.layers import Pooling

IMAGES = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype("float32")


@pytest.fixture(scope="module")
def lite0(efficientnet_lite0):
    return load_backbone(str(efficientnet_lite0), 224)


def test_keras_file_gives_the_features_of_its_model(efficientnet_lite0, lite0):
    assert lite0.input_shape == (None, 224, 224, 3)
    assert lite0.output_shape == (None, 1280)
    images = np.random.default_rng(0).uniform(0, 255, (2, 224, 224, 3)).astype("float32")
    expected = keras.saving.load_model(efficientnet_lite0)(images)
    np.testing.assert_array_equal(lite0(images), expected)


def test_keras_file_is_rebuilt_at_another_size_in_mixed_precision(lite0):
    colors = np.random.default_rng(0).uniform(0, 255, (1, 4, 4, 3))
    images, larger = (keras.ops.image.resize(colors, (s, s)) for s in (224, 288))
    backbone = rebuild(lite0, 288, "mixed_bfloat16")
    assert backbone.input_shape == (None, 288, 288, 3)
    features = backbone(larger)
    assert features.dtype == "bfloat16"
    cosine = -keras.losses.cosine_similarity(lite0(images), keras.ops.cast(features, "float32"))
    assert cosine[0] > 0.9


def test_unusable_keras_file_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.keras does not exist"):
        load_backbone("nowhere.keras")
    (tmp_path / "text.keras").write_text("not a model")
    with pytest.raises(UserError, match=r"text\.keras is not a Keras model"):
        load_backbone(str(tmp_path / "text.keras"))
    inputs = keras.Input((5,))
    keras.Model(inputs, keras.layers.Dense(2)(inputs)).save(tmp_path / "dense.keras")
    with pytest.raises(UserError, match=r"dense\.keras takes \(None, 5\)"):
        load_backbone(str(tmp_path / "dense.keras"))


MODULES = {
    "MobileNetV2": "mobilenet_v2",
    "ResNet50": "resnet50",
    "EfficientNetV2B0": "efficientnet_v2",
    "ConvNeXtTiny": "convnext",
    "DenseNet121": "densenet",
    "MobileNetV3Small": "mobilenet_v3",
}


@pytest.mark.parametrize(
    "name",
    [n if n == "MobileNetV2" else pytest.param(n, marks=pytest.mark.slow) for n in MODULES],
)
def test_application_preprocesses_as_keras_does(name):
    backbone = load_backbone(name, 64, pretrained=False)
    tower = backbone.layers[2]
    preprocess = getattr(keras.applications, MODULES[name]).preprocess_input
    expected = np.mean(tower(preprocess(IMAGES.copy())), axis=(1, 2))
    np.testing.assert_allclose(backbone(IMAGES), expected, rtol=1e-3, atol=1e-5)
    assert rebuild(backbone, 96).output_shape == backbone.output_shape
    assert list(layer_depths(backbone).values()) == sorted(layer_depths(backbone).values())


def test_gem_is_the_generalized_mean():
    features = np.random.default_rng(0).uniform(0, 2, (2, 3, 3, 5)).astype("float32")
    expected = np.mean(features**3, axis=(1, 2)) ** (1 / 3)
    np.testing.assert_allclose(Pooling("gem")(features), expected, rtol=1e-5)
    np.testing.assert_allclose(Pooling("mean")(features), features.mean((1, 2)), rtol=1e-5)


def test_list_backbones_has_image_models_only():
    names = list_backbones()
    assert {"small", "MobileNetV2", "EfficientNetV2B0", "ConvNeXtTiny"} <= set(names)
    assert {"clip_vit_h_14_laion2b_s32b_b79k", "dinov2_base"} <= set(names)
    assert not [name for name in names if "bert" in name]
    assert len(set(names)) == len(names)


def test_unknown_backbone_error_suggests_names():
    with pytest.raises(UserError, match=r"'MobilNetV2' is not .* nearest names: MobileNetV2"):
        load_backbone("MobilNetV2")
