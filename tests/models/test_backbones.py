"""Backbones that are not KerasHub's: Keras files and keras.applications."""

import keras
import numpy as np
import pytest

from universal_embedding.errors import UserError
from universal_embedding.models.backbones import depths, load_backbone, rebuild
from universal_embedding.models.backbones.applications import names
from universal_embedding.models.backbones.pooling import Pooling

IMAGES = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype("float32")


@pytest.fixture(scope="module")
def lite0(efficientnet_lite0):
    return load_backbone(str(efficientnet_lite0), 224)


def test_keras_file(efficientnet_lite0, lite0):
    assert lite0.input_shape == (None, 224, 224, 3)
    assert lite0.output_shape == (None, 1280)
    images = np.random.default_rng(0).uniform(0, 255, (2, 224, 224, 3)).astype("float32")
    expected = keras.saving.load_model(efficientnet_lite0)(images)
    np.testing.assert_array_equal(lite0(images), expected)


def test_keras_file_at_another_size_in_mixed_precision(lite0):
    pictures = np.random.default_rng(0).uniform(0, 255, (1, 4, 4, 3))
    images, bigger = (keras.ops.image.resize(pictures, (s, s)) for s in (224, 288))
    backbone = rebuild(lite0, 288, "mixed_bfloat16")
    assert backbone.input_shape == (None, 288, 288, 3)
    features = backbone(bigger)
    assert features.dtype == "bfloat16"
    cosine = -keras.losses.cosine_similarity(lite0(images), keras.ops.cast(features, "float32"))
    assert cosine[0] > 0.9


def test_keras_file_errors(tmp_path):
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
    assert list(depths(backbone).values()) == sorted(depths(backbone).values())


def test_gem_is_the_generalised_mean():
    features = np.random.default_rng(0).uniform(0, 2, (2, 3, 3, 5)).astype("float32")
    expected = np.mean(features**3, axis=(1, 2)) ** (1 / 3)
    np.testing.assert_allclose(Pooling("gem")(features), expected, rtol=1e-5)
    np.testing.assert_allclose(Pooling("mean")(features), features.mean((1, 2)), rtol=1e-5)


def test_applications_are_found():
    assert {"MobileNetV2", "EfficientNetV2B0", "ConvNeXtTiny"} <= set(names())


def test_unknown_backbone():
    with pytest.raises(UserError, match=r"'MobilNetV2' is no .* nearest names: MobileNetV2"):
        load_backbone("MobilNetV2")
