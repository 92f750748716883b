"""Exports of joined backbones and of prefixes: equal to the model, with their cost."""

import re

import keras
import numpy as np
import pytest

from tests.helpers.tiny_model import draw_image
from universal_embedding.errors import UserError
from universal_embedding.export.cost import describe_cost
from universal_embedding.export.embedder import Embedder
from universal_embedding.export.saved_model import save_model
from universal_embedding.models.backbones import load_backbone
from universal_embedding.models.embedding_model import EmbeddingModel

IMAGES = [draw_image(40, 50), draw_image(48, 48, seed=1)]


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    backbone = load_backbone("small@40+small@32", 48)
    model = EmbeddingModel(backbone, 6, 48, standardize=True, feature_power=0.5)
    features = np.random.default_rng(0).normal(0.3, 1, (10, backbone.output_shape[-1]))
    model.standardization.fit(lambda function: np.mean(function(features), axis=0), 10)
    return model


def test_export_embeds_as_the_model_does(model, tmp_path):
    save_model(model, tmp_path / "saved")
    embedder = Embedder.from_pretrained(tmp_path / "saved")
    expected = np.concatenate([model(image[None]) for image in IMAGES])
    np.testing.assert_allclose(embedder.encode(IMAGES), expected, atol=1e-5)
    assert embedder.embedding_dim == 6
    assert np.abs(expected[0] - expected[1]).max() > 0.01


def test_a_prefix_is_the_first_dimensions_at_unit_length(model, tmp_path):
    save_model(model.with_dimension(3), tmp_path / "prefix")
    embedder = Embedder.from_pretrained(tmp_path / "prefix")
    whole = np.concatenate([model(image[None]) for image in IMAGES])[:, :3]
    expected = whole / np.linalg.norm(whole, axis=1, keepdims=True)
    np.testing.assert_allclose(embedder.encode(IMAGES), expected, atol=1e-5)


@pytest.mark.parametrize("dimension", [0, 7])
def test_a_prefix_that_does_not_exist_is_one_line(model, dimension):
    with pytest.raises(UserError, match=f"dimension={dimension} is not a prefix .* 6 dimensions"):
        model.with_dimension(dimension)


def test_cost_counts_both_backbones(model):
    lines = describe_cost(model, ["a", "b"])
    assert len(lines) == 3
    params, flops = zip(
        *(map(float, re.findall(r"([\d.]+) (?:M|GFLOPs)", line)) for line in lines), strict=True
    )
    small = load_backbone("small", 40)
    assert params[1] == params[2] == round(small.count_params() / 1e6, 2)
    assert params[0] == pytest.approx(model.count_params() / 1e6, abs=0.006)
    assert flops[0] >= flops[1] > flops[2] > 0
    assert "a at 40 pixels" in lines[1] and "images/s here" in lines[0]
