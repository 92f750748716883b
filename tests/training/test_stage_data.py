"""Data of stages: what is refused before the first step, and weights of selected domains."""

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.fake_records import FakeRecords, encode_random_image
from universal_embedding.errors import UserError
from universal_embedding.training.config import base_config, stage
from universal_embedding.training.experiment import Experiment
from universal_embedding.training.schedule import read_stages

RATES = {"projection_lr": 1e-2, "head_lr": 1e-2}


def test_images_with_several_labels_are_refused_in_a_stage_on_features(config, tmp_path):
    config.stages = (stage(steps=2, input="features", **RATES),)
    rows = [[7], [7, 9], [9], [7], [9], [9]]
    images = [encode_random_image(20, 24, seed=i) for i in range(6)]
    records = {"a": FakeRecords("a", rows, images)}
    strategy = tf.distribute.get_strategy()
    with pytest.raises(UserError, match=r"several labels|labels"):
        Experiment.from_config(config, records, tmp_path / "run", strategy)


def test_features_have_the_image_size_of_the_model():
    with pytest.raises(UserError, match=r"config\.stages\[0\]\.image_size is 384; it must be 0"):
        config = base_config()
        config.stages = (stage(steps=2, input="features", image_size=384, **RATES),)
        read_stages(config)


def test_weights_of_the_run_serve_stages_that_select_domains(make_experiment, config):
    config.data.sampler, config.data.domain_weights = "weights", (1.0, 2.0, 6.0)
    config.stages = (
        stage(steps=2, domains=("coins", "apples"), **RATES),
        stage(steps=2, domains=("boats",), **RATES),
        stage(steps=2, **RATES),
    )
    experiment = make_experiment()
    weights = [experiment.domain_weights(s) for s in experiment.stages]
    assert weights[0] == pytest.approx({"coins": 6 / 7, "apples": 1 / 7})
    assert weights[1] == {"boats": 1.0}
    assert weights[2] == pytest.approx({"apples": 1 / 9, "boats": 2 / 9, "coins": 6 / 9})
    sampled = experiment.batch_sampler(experiment.stages[0]).batch_at(tf.range(200)).domain
    assert np.bincount(sampled.numpy().ravel())[1] / sampled.numpy().size == pytest.approx(
        1 / 7, abs=0.02
    )
