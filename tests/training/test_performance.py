import sys
import time
import types

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import config as framework_config

from tests.training.test_hooks import rows_of
from universal_embedding.errors import UserError
from universal_embedding.training import performance, train_step
from universal_embedding.training.dry_run.devices import find_device
from universal_embedding.training.hooks import Hook, default_hooks
from universal_embedding.training.performance import StepTimer
from universal_embedding.training.profile_hook import PROFILE_FOLDER, ProfileHook
from universal_embedding.training.trainer import train
from universal_embedding.training.wandb_hook import WandbHook


@pytest.fixture
def clock():
    """Lets graphs read the clock, which deterministic ones cannot."""
    framework_config.disable_op_determinism()
    yield
    framework_config.enable_op_determinism()


def test_step_times_and_waiting_are_those_of_the_clock(make_experiment):
    experiment = make_experiment()
    timer = StepTimer(experiment, experiment.stages[0])
    # Before the first step; then batch ready, step done. The first step compiles.
    timer.update(np.array([[100, 100], [101, 109], [108, 110], [112.5, 113]]))
    timer.update(np.array([[200, 200], [200, 202]]))
    metrics = timer.pop()
    assert metrics == {
        "time/first_step": 9.0,
        "time/step_median": 2.0,  # of 1, 3 and 2 seconds
        "time/step_p99": pytest.approx(2.98),
        "time/input_wait": 2.5 / 6,
    }
    timer.update(np.array([[300, 300], [300, 304]]))
    assert timer.pop()["time/step_median"] == 4.0


def test_utilization_is_the_share_of_the_peak(make_experiment, monkeypatch):
    monkeypatch.setattr(performance, "detect_device", lambda _: find_device("h100x8"))
    monkeypatch.setattr(performance, "peak_memory", lambda: 3_000_000_000)
    experiment = make_experiment()
    flops = performance.backbone_flops(experiment, experiment.stages[0])
    assert flops == 2 * (27 * 6 * 49 + 54 * 8 * 9)  # of the two convolutions
    timer = StepTimer(experiment, experiment.stages[0])
    timer.update(np.array([[0, 0], [0, 1], [1, 3]]))
    metrics = timer.pop()
    assert metrics["mfu"] == pytest.approx(3 * 12 * flops / (8 * 494.7e12 * 2.0))
    assert metrics["memory/peak_gb"] == 3.0


def test_waiting_for_slow_input_is_seen(clock, make_experiment, config):
    config.steps_per_execution = 1

    class SlowInputHook(Hook):
        def before_stage(self, context):
            batches = tf.data.Dataset.from_tensors(next(context.batches)).repeat()
            numbers = tf.data.Dataset.range(1000).map(_sleep)
            context.batches = iter(tf.data.Dataset.zip(batches, numbers).map(lambda b, _: b))

    experiment = make_experiment()
    assert train(experiment, [*default_hooks(experiment), SlowInputHook()])
    assert rows_of(experiment)[-1]["time/input_wait"] > 0.5


def _sleep(number):
    return tf.py_function(lambda n: (time.sleep(0.05), n)[1], [number], tf.int64)


@pytest.mark.slow
def test_reading_the_clock_changes_no_weight(clock, make_experiment, config, monkeypatch):
    config.steps_per_execution = 4
    timed, plain = make_experiment("timed"), make_experiment("plain")
    train(timed, default_hooks(timed))
    monkeypatch.setattr(train_step, "_timestamp_after", lambda _: tf.zeros([], tf.float64))
    train(plain, default_hooks(plain))
    for a, b in zip(timed.weights, plain.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_profile_has_the_chosen_steps(make_experiment):
    experiment = make_experiment()
    assert train(experiment, [*default_hooks(experiment), ProfileHook.from_flag("2:4")])
    files = list((experiment.workdir / PROFILE_FOLDER).rglob("*.xplane.pb"))
    assert len(files) == 1
    assert files[0].stat().st_size > 0
    assert not list((make_experiment("other").workdir).rglob("*.xplane.pb"))


@pytest.mark.parametrize("text", ["", "5", "5:5", "7:3", "a:b", "-1:3"])
def test_profile_needs_two_steps(text):
    with pytest.raises(UserError, match=r"--profile=.* must be two steps"):
        ProfileHook.from_flag(text)


class FakeWandb(types.ModuleType):
    def __init__(self):
        super().__init__("wandb")
        self.rows, self.finished = [], 0

    def init(self, **options):
        self.options = options
        return self

    def log(self, row, step):
        self.rows.append({"step": step, **row})

    def finish(self):
        self.finished += 1


def test_weights_and_biases_gets_every_row(make_experiment, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    experiment = make_experiment()
    assert train(experiment, [*default_hooks(experiment), WandbHook("team/project")])
    assert fake.rows == rows_of(experiment)
    assert len(fake.rows) == 2
    assert fake.finished == 1
    assert (fake.options["entity"], fake.options["project"]) == ("team", "project")
    assert fake.options["resume"] == "allow"
    first_id = fake.options["id"]
    again = make_experiment()  # the same run directory
    assert train(again, [*default_hooks(again), WandbHook("project")])
    assert (fake.options["id"], fake.options["entity"]) == (first_id, None)


def test_service_that_fails_is_refused_before_training_and_outlived_later(
    make_experiment, monkeypatch, caplog
):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)

    def fail(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr(fake, "init", fail)
    experiment = make_experiment()
    with pytest.raises(UserError, match=r"--wandb=project .*no network.*wandb login"):
        train(experiment, [WandbHook("project")])
    monkeypatch.undo()
    fake.log = fake.finish = fail
    monkeypatch.setitem(sys.modules, "wandb", fake)
    assert train(make_experiment(), [*default_hooks(experiment), WandbHook("project")])
    assert caplog.text.count("nothing more is sent to Weights & Biases: no network") == 1


def test_weights_and_biases_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"--wandb=project needs the package wandb; install"):
        WandbHook("project")
