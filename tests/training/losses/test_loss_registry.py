"""The registry of losses: names, weights, and losses that a user adds."""

import pytest
import tensorflow as tf
from ml_collections import ConfigDict

from tests.helpers.loss_batches import ArrayTeacher, random_batch
from universal_embedding.errors import UserError
from universal_embedding.training.config import base_config
from universal_embedding.training.losses import (
    LOSSES,
    Loss,
    LossContext,
    loss_names,
    make_losses,
)


class ConstantLoss(Loss):
    def __init__(self, context):
        self.value = context.config.losses.constant.value

    def __call__(self, batch, outputs):
        return tf.fill([tf.size(batch["domain"])], self.value)


def context_of(config):
    return LossContext(config, None, {}, [ArrayTeacher()])


@pytest.fixture
def pair_config():
    config = base_config()
    config.losses.classification.weight = 0.0
    config.losses.supcon.weight = 0.5
    config.losses.distance.weight = 2.0
    return config


def test_every_registered_loss_has_defaults_in_base_config():
    assert set(base_config().losses) == set(LOSSES)


def test_make_losses_returns_weighted_losses_in_registry_order(pair_config):
    losses = make_losses(context_of(pair_config))
    assert [(name, weight) for name, (weight, _) in losses.items()] == [
        ("distance", 2.0),
        ("supcon", 0.5),
    ]
    assert all(isinstance(loss, LOSSES[name]) for name, (_, loss) in losses.items())
    assert loss_names(losses) == ["distance", "supcon"]


def test_registered_loss_of_a_user_gets_its_options(pair_config, monkeypatch):
    monkeypatch.setitem(LOSSES, "constant", ConstantLoss)
    with pair_config.unlocked():
        pair_config.losses.constant = ConfigDict({"weight": 3.0, "value": 7.0})
    weight, loss = make_losses(context_of(pair_config))["constant"]
    batch = random_batch(size=4)
    assert weight == 3.0 and loss(batch, None).numpy().tolist() == [7.0] * 4
    assert not loss.variables_by_group() and not loss.updated_groups(batch)


def test_unknown_loss_is_refused(pair_config):
    with pair_config.unlocked():
        pair_config.losses.supcom = ConfigDict({"weight": 1.0})
    with pytest.raises(UserError, match=r"'supcom'.*supcon"):
        make_losses(context_of(pair_config))


def test_config_without_weighted_loss_is_refused(pair_config):
    pair_config.losses.supcon.weight = pair_config.losses.distance.weight = 0.0
    with pytest.raises(UserError, match=r"config\.losses\.classification\.weight"):
        make_losses(context_of(pair_config))
