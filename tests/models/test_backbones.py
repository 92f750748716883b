"""Backbones that are not KerasHub's: Keras files and keras.applications."""

import keras
import numpy as np
import pytest

from universal_embedding.errors import UserError
from universal_embedding.models.backbones import load_backbone
from universal_embedding.models.backbones.applications import names

IMAGES = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype("float32")


def test_keras_file(efficientnet_lite0):
    backbone = load_backbone(str(efficientnet_lite0), 224)
    assert backbone.input_shape == (None, 224, 224, 3)
    assert backbone.output_shape == (None, 1280)
    images = np.random.default_rng(0).uniform(0, 255, (2, 224, 224, 3)).astype("float32")
    expected = keras.saving.load_model(efficientnet_lite0)(images)
    np.testing.assert_array_equal(backbone(images), expected)


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


@pytest.mark.parametrize("name", ["MobileNetV2", pytest.param("ResNet50", marks=pytest.mark.slow)])
def test_application_preprocesses_as_keras_does(name):
    module = {"MobileNetV2": "mobilenet_v2", "ResNet50": "resnet50"}[name]
    backbone = load_backbone(name, 64, pretrained=False)
    tower = backbone.get_layer(name)
    preprocess = getattr(keras.applications, module).preprocess_input
    expected = np.mean(tower(preprocess(IMAGES.copy())), axis=(1, 2))
    np.testing.assert_allclose(backbone(IMAGES), expected, rtol=1e-4, atol=1e-6)


def test_applications_are_found():
    assert {"MobileNetV2", "EfficientNetV2B0", "ConvNeXtTiny"} <= set(names())


def test_unknown_backbone():
    with pytest.raises(UserError, match="'nonsense' is none of"):
        load_backbone("nonsense")
