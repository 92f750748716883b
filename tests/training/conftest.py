"""A run so small that training it takes seconds."""

import keras
import pytest
import tensorflow as tf

from tests.helpers.fake_records import make_domains
from universal_embedding.training.config import base_config, stage
from universal_embedding.training.experiment import Experiment


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory):
    keras.utils.set_random_seed(7)
    layers = [
        keras.Input((16, 16, 3)),
        keras.layers.Rescaling(1 / 128, -1),
        keras.layers.Conv2D(6, 3, strides=2, activation="relu", name="low"),
        keras.layers.Conv2D(8, 3, strides=2, activation="relu", name="high"),
        keras.layers.GlobalAveragePooling2D(),
    ]
    path = tmp_path_factory.mktemp("backbone") / "tiny.keras"
    keras.Sequential(layers).save(path)
    return path


@pytest.fixture(scope="session")
def records():
    return make_domains({"apples": 30, "boats": 50, "coins": 20}, height=20, width=24)


@pytest.fixture
def config(tiny_backbone):
    config = base_config()
    config.data.batch_size = 12
    config.model.backbone = str(tiny_backbone)
    config.model.image_size = 16
    config.model.embedding_dim = 5
    config.log_every_steps = 5
    config.checkpoint_every_steps = 4
    learning_rates = {"backbone_lr": 1e-2, "projection_lr": 1e-2, "head_lr": 1e-2}
    config.stages = (stage(steps=10, **learning_rates),)
    return config


@pytest.fixture
def make_experiment(config, records, tmp_path):
    def make(folder="run", strategy=None, **overrides):
        changed = config.copy_and_resolve_references()
        for name, value in overrides.items():
            changed[name] = value
        strategy = strategy or tf.distribute.get_strategy()
        return Experiment.from_config(changed, records, tmp_path / folder, strategy)

    return make


@pytest.fixture(scope="session", autouse=True)
def _deterministic_ops():
    tf.config.experimental.enable_op_determinism()
