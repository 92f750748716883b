"""Losses of images that MixUp or CutMix mixed: the mixture of both labels' losses."""

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.loss_batches import make_loss, model_outputs
from universal_embedding.errors import UserError
from universal_embedding.training.config import base_config
from universal_embedding.training.losses import LOSSES, LossContext


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    domain = np.sort(rng.integers(0, 3, 12)).astype(np.int32)
    return {
        "features": tf.constant(rng.normal(size=(12, 8)), tf.float32),
        "domain": tf.constant(domain),
        "label": tf.constant(rng.integers(0, 4, 12), tf.int32),
        "label2": tf.constant(rng.integers(0, 4, 12), tf.int32),
        "mix": tf.constant(rng.uniform(size=12), tf.float32),
    }


def unmixed(batch, label):
    return {"features": batch["features"], "domain": batch["domain"], "label": batch[label]}


def values(experiment, name, batch):
    embedding = experiment.model.embed_features(batch["features"])
    return experiment.losses[name][1](batch, model_outputs(embedding, batch["features"])).numpy()


@pytest.mark.parametrize("joint", [True, False])
def test_classification_of_a_mixed_image_is_the_mixture_of_both_labels(
    make_experiment, config, batch, joint
):
    config.head.joint = joint
    config.head.margin = 0.2
    experiment = make_experiment()
    mix = batch["mix"].numpy()
    own = values(experiment, "classification", unmixed(batch, "label"))
    partner = values(experiment, "classification", unmixed(batch, "label2"))
    expected = [m * a + (1 - m) * b for m, a, b in zip(mix, own, partner, strict=True)]
    np.testing.assert_allclose(values(experiment, "classification", batch), expected, rtol=1e-5)
    assert np.abs(expected - own).max() > 0.1


def test_both_classification_terms_of_udon_are_mixtures(make_experiment, config, batch):
    config.losses.classification.weight = 0.0
    config.losses.udon.weight = 1.0
    config.losses.udon.teacher_dim = 6
    config.head.joint = False
    experiment = make_experiment()
    mix = batch["mix"].numpy()
    own, partner = (values(experiment, "udon", unmixed(batch, k)) for k in ("label", "label2"))
    mixed = values(experiment, "udon", batch)
    np.testing.assert_allclose(mixed[:2], mix * own[:2] + (1 - mix) * partner[:2], rtol=1e-5)
    np.testing.assert_array_equal(mixed[2:], own[2:])  # distillation has no labels


@pytest.mark.parametrize("mixing", ["mixup", "cutmix"])
@pytest.mark.parametrize("name", ["supcon", "multi_similarity"])
def test_losses_on_pairs_of_labels_refuse_mixing(name, mixing):
    config = base_config()
    config.augmentation[mixing] = 0.2
    with pytest.raises(UserError, match=rf"config\.losses\.{name} .* a mixed image has two"):
        LOSSES[name](LossContext(config, None, {}, None))
    make_loss(name)  # without mixing it is made
