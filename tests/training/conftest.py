"""A run so small that training it takes seconds."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.fake_records import make_domains
from universal_embedding.training.checkpoints import Checkpoints
from universal_embedding.training.config import base_config, stage
from universal_embedding.training.experiment import Experiment
from universal_embedding.training.hooks import Hook, InputPreviewHook
from universal_embedding.training.initialization import save_class_ids
from universal_embedding.training.model import save_architecture
from universal_embedding.training.run_directory import write_config


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


@pytest.fixture
def save_run(make_experiment):
    """Writes a run that has taken no step, with random weights from one or two seeds."""

    def save(folder, seed=1, head_seed=1, strategy=None):
        experiment = make_experiment(folder, strategy)
        state = experiment.checkpoint_state()
        for owner in ("model", "ema", "heads"):
            for i, variable in enumerate(state[owner]):
                is_projection = i == len(state[owner]) - 1
                own_seed = head_seed if is_projection or owner == "heads" else seed
                rng = np.random.default_rng([own_seed, i, len(owner)])
                variable.assign(rng.normal(size=variable.shape))
        write_config(experiment.workdir, experiment.config, {})
        save_architecture(experiment.workdir, experiment.model)
        save_class_ids(experiment.workdir, experiment.records)
        checkpoints = Checkpoints(experiment.workdir, state)
        checkpoints.save(0)
        checkpoints.wait()
        return experiment

    return save


@pytest.fixture
def input_preview():
    """Requested by tests of the preview of the input, which others leave out."""


@pytest.fixture(autouse=True)
def _no_input_preview(request, monkeypatch):
    """It builds the input a second time, which takes a quarter of the time of so short runs."""
    if "input_preview" not in request.fixturenames:
        monkeypatch.setattr(InputPreviewHook, "before_stage", Hook.before_stage)


@pytest.fixture(scope="session", autouse=True)
def _deterministic_ops():
    tf.config.experimental.enable_op_determinism()
