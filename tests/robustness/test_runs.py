"""Training beside another training, on a full disk, and when the terminal goes away."""

import os
import signal

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.fake_records import make_domains
from universal_embedding.datasets.lock import hold_lock
from universal_embedding.errors import UserError
from universal_embedding.models.distribution import poll
from universal_embedding.models.inference import RecordEmbedder
from universal_embedding.training import shutdown as shutdown_module
from universal_embedding.training.config import base_config, stage
from universal_embedding.training.experiment import Experiment
from universal_embedding.training.feature_cache import FeatureCache
from universal_embedding.training.shutdown import GracefulShutdown, Interrupted
from universal_embedding.training.trainer import train


@pytest.fixture(scope="module")
def records():
    return make_domains({"boats": 30, "coins": 20})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_first_signal_is_kept_for_the_next_step_and_ends_long_work(number):
    with GracefulShutdown() as shutdown:
        os.kill(os.getpid(), number)
        assert shutdown.signal == number
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    one_host = tf.distribute.get_strategy()
    with (
        GracefulShutdown() as shutdown,
        pytest.raises(Interrupted),
        shutdown.interruptible(one_host),
    ):
        os.kill(os.getpid(), number)


@pytest.mark.parametrize("is_here", [True, False])
def test_a_signal_to_one_of_two_hosts_ends_long_work_on_both(is_here, monkeypatch):
    """The other host's part is played by what it would send."""
    sent = [0.0]
    monkeypatch.setattr(shutdown_module, "num_hosts_and_id", lambda _: (2, 1))
    monkeypatch.setattr(shutdown_module, "all_reduce_max", lambda x, _: [max(x[0], sent[0])])
    with GracefulShutdown() as shutdown:
        with shutdown.interruptible(tf.distribute.get_strategy()):
            poll()
            if is_here:
                os.kill(os.getpid(), signal.SIGTERM)  # not before the other host can know
            else:
                sent[0] = float(signal.SIGTERM)
            with pytest.raises(Interrupted):
                poll()
        poll()
        assert shutdown.signal is signal.SIGTERM


def test_second_training_of_a_directory_is_told_who_the_first_is(records, tmp_path):
    config = base_config()
    config.data.batch_size = 8
    config.model.backbone = "small"
    config.model.image_size = 32
    config.stages = (stage(steps=2, backbone_lr=1e-2, projection_lr=1e-2, head_lr=1e-2),)
    workdir = tmp_path / "run"
    workdir.mkdir()
    experiment = Experiment.from_config(config, records, workdir, tf.distribute.get_strategy())
    with (
        hold_lock(workdir / ".lock", workdir),
        pytest.raises(UserError, match=f"in use by another run .*process {os.getpid()}"),
    ):
        train(experiment, [])
    assert [path.name for path in workdir.iterdir()] == [".lock"]  # nothing of it was touched
    assert train(experiment, [])


def wide_rows(images, training=False):
    return tf.tile(tf.reduce_mean(images, axis=(1, 2)), [1, 2000])


def test_disk_that_fills_while_features_are_computed_raises_an_error(records, small_disk, tmp_path):
    strategy = tf.distribute.get_strategy()
    embedder = RecordEmbedder(wide_rows, strategy, image_size=8, batch_size=2)
    cache = FeatureCache(small_disk, strategy)
    with pytest.raises(OSError, match="No space left"):  # not SIGBUS, of a memory map
        cache.compute(records, "model", embedder, "x", show_progress=False)
    assert cache.missing(records, "model") == ["boats", "coins"]
    elsewhere = FeatureCache(tmp_path / "features", strategy)
    elsewhere.compute(records, "model", embedder, "x", show_progress=False)
    assert not elsewhere.missing(records, "model")


@pytest.mark.parametrize("damage", ["shape", "empty", "other images", "other model", "no key"])
def test_features_of_something_else_are_computed_again(records, damage, tmp_path):
    strategy = tf.distribute.get_strategy()
    cache = FeatureCache(tmp_path, strategy)
    embedder = RecordEmbedder(wide_rows, strategy, image_size=8, batch_size=2)
    cache.compute(records, "model", embedder, "x", show_progress=False)
    assert not cache.missing(records, "model")
    key = "other" if damage == "other model" else "model"
    if damage == "shape":
        np.save(tmp_path / "boats.npy", np.zeros((3, 7), np.float32))
    elif damage == "empty":
        (tmp_path / "boats.npy").write_bytes(b"")
    elif damage == "other images":
        records = records | {"boats": make_domains({"boats": 31})["boats"]}
        np.save(tmp_path / "boats.npy", np.zeros((31, 6000), np.float32))
    elif damage == "no key":
        (tmp_path / "boats.key").unlink()
    assert "boats" in cache.missing(records, key)
