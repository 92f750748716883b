import json
import os
import signal

import numpy as np
import pytest

from tests.helpers.killing import StartHook, train_until_killed
from universal_embedding.errors import UserError
from universal_embedding.training.checkpoints import load_embedding_model
from universal_embedding.training.config import stage
from universal_embedding.training.hooks import Hook, default_hooks
from universal_embedding.training.metric_writer import read_rows
from universal_embedding.training.run_directory import read_config, write_config
from universal_embedding.training.strategy import mirrored
from universal_embedding.training.trainer import train

LEARNING_RATES = {"projection_lr": 1e-2, "head_lr": 1e-2}


def train_by_default(experiment, *hooks, evaluators=None, **kwargs):
    return train(experiment, [*default_hooks(experiment, evaluators), *hooks], **kwargs)


def state_values(experiment):
    state = experiment.checkpoint_state()
    return [variable.numpy() for variables in state.values() for variable in variables]


def assert_equal(actual, expected):
    assert all(np.array_equal(a, b) for a, b in zip(actual, expected, strict=True))


@pytest.fixture
def two_stages(config):
    config.model.dropout = 0.2
    config.optimizer.ema_decay = 0.9
    config.steps_per_execution = 1
    config.stages = (
        stage(steps=5, input="features", **LEARNING_RATES),
        stage(steps=10, backbone_lr=1e-2, warmup_steps=4, **LEARNING_RATES),
    )


@pytest.mark.parametrize(
    "step", [pytest.param(3, marks=pytest.mark.slow), 6, pytest.param(13, marks=pytest.mark.slow)]
)
def test_killed_run_ends_like_uninterrupted_run(make_experiment, two_stages, step):
    whole = make_experiment("whole")
    train_by_default(whole)

    train_until_killed(make_experiment("killed"), step)
    resumed, start = make_experiment("killed"), StartHook()
    train_by_default(resumed, start)
    assert 0 < start.step <= step or step < 4
    assert_equal(state_values(whole), state_values(resumed))
    rows = [read_rows(e.workdir / "metrics.jsonl") for e in (whole, resumed)]
    for row in rows[0] + rows[1]:
        for name in [n for n in row if n.startswith("time/") or n == "images_per_second"]:
            del row[name]
    assert rows[0] == rows[1]  # also the means of steps before and after the interruption
    assert [row["step"] for row in rows[1]] == [5, 10, 15]


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_signal_saves_and_rerun_resumes(make_experiment, two_stages, number, capsys):
    whole = make_experiment("whole")
    train_by_default(whole)

    calls = []

    def send_signal(*_):
        calls.append(1)
        if len(calls) == 1:
            os.kill(os.getpid(), number)
        return {"merged/mean/r_at_1": 0.1}

    stopped = make_experiment("stopped")
    if number == signal.SIGINT:
        with pytest.raises(KeyboardInterrupt):
            train_by_default(stopped, evaluators={"val": send_signal})
    else:
        assert train_by_default(stopped, evaluators={"val": send_signal}) is False
    assert int(stopped.step.numpy()) == 5
    message = f"{number.name} at step 5: checkpoint saved; rerun the command to resume"
    assert message in capsys.readouterr().out
    resumed = make_experiment("stopped")
    train_by_default(resumed)
    for owner in whole.checkpoint_state():
        if owner != "evaluation":
            expected, actual = (
                [v.numpy() for v in experiment.checkpoint_state()[owner]]
                for experiment in (whole, resumed)
            )
            assert_equal(actual, expected)


def test_evaluation_interrupted_by_signal_runs_on_resume(make_experiment, two_stages):
    steps = []

    def evaluate(model, strategy):
        steps.append(len(steps))
        if len(steps) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return {"merged/mean/r_at_1": 0.1 * len(steps)}

    stopped = make_experiment()
    assert not train_by_default(stopped, evaluators={"val": evaluate})
    resumed = make_experiment()
    assert train_by_default(resumed, evaluators={"val": evaluate})
    lines = (resumed.workdir / "metrics.jsonl").read_text().splitlines()
    rows = {
        row["step"]: row["val/merged/mean/r_at_1"]
        for row in map(json.loads, lines)
        if "val/merged/mean/r_at_1" in row
    }
    assert rows == {5: pytest.approx(0.2), 15: pytest.approx(0.3)}


def test_signal_between_calls_stops_before_evaluation(make_experiment, config):
    config.evals.val.every_steps = 5

    class SignalHook(Hook):
        def after_steps(self, context, results):
            if context.step == 4:
                os.kill(os.getpid(), signal.SIGTERM)

    def evaluate(*_):
        raise AssertionError("evaluated after a signal")

    config.steps_per_execution = 1
    experiment = make_experiment()
    assert not train_by_default(experiment, SignalHook(), evaluators={"val": evaluate})
    assert int(experiment.step.numpy()) == 5


def test_damaged_checkpoint_is_skipped(make_experiment, caplog):
    experiment = make_experiment()
    train_by_default(experiment)
    newest = experiment.workdir / "checkpoints" / "last" / "step-10.data-00000-of-00001"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    resumed, start = make_experiment(), StartHook()
    train_by_default(resumed, start)
    assert start.started_from.endswith("step-8")
    assert "step-10" in caplog.text and "skipping damaged checkpoint" in caplog.text
    assert_equal(state_values(experiment), state_values(resumed))


@pytest.mark.slow
def test_checkpoint_of_one_replica_resumes_on_two(make_experiment, config):
    config.stages = (stage(steps=4, **LEARNING_RATES), stage(steps=6, **LEARNING_RATES))
    whole = make_experiment("whole")
    train_by_default(whole)
    half = make_experiment("half", stages=config.stages[:1])
    train_by_default(half)
    resumed, start = make_experiment("half", mirrored(2)), StartHook()
    train_by_default(resumed, start)
    assert start.step == 4
    for a, b in zip(whole.weights, resumed.weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-5)


def test_best_checkpoint_has_the_best_score(make_experiment, config):
    config.evals.val.every_steps = 2
    experiment = make_experiment()
    write_config(experiment.workdir, experiment.config, {})
    weights, scores = [], iter([0.1, 0.6, 0.3, 0.6, 0.2])

    def evaluate(model, _):
        weights.append([w.numpy() for w in model.weights])
        return {"merged/mean/r_at_1": next(scores)}

    train_by_default(experiment, evaluators={"val": evaluate})
    best = load_embedding_model(experiment.workdir, "best")
    last = load_embedding_model(experiment.workdir, "last")
    assert_equal([w.numpy() for w in best.weights], weights[1])
    assert_equal([w.numpy() for w in last.weights], weights[4])


def test_nan_stops_the_run_and_names_step_and_domain(make_experiment, config):
    config.stages = (stage(steps=20, **LEARNING_RATES),)
    config.checkpoint_every_steps = 3
    experiment = make_experiment()

    class PoisonHook(Hook):
        every_steps = 5

        def after_steps(self, context, results):
            if self.is_due(context.step, context.stage):
                head = experiment.checkpoint_state()["heads"][0]
                poisoned = head.numpy()
                poisoned[:4] = np.nan
                head.assign(poisoned)

    with pytest.raises(UserError, match=r"loss at step 5 .*apples"):
        train_by_default(experiment, PoisonHook())
    folder = experiment.workdir / "checkpoints" / "last"
    assert sorted(path.stem for path in folder.glob("*.index")) == ["step-3"]


def test_another_config_in_the_same_directory_is_refused(make_experiment, config):
    experiment = make_experiment()
    write_config(experiment.workdir, experiment.config, {})
    write_config(experiment.workdir, experiment.config, {})
    with pytest.raises(UserError, match=r"head\.scale: 16\.0 -> 30\.0"):
        config.head.scale = 30.0
        write_config(experiment.workdir, make_experiment().config, {})


def test_run_directory_of_another_format_is_refused(make_experiment):
    experiment = make_experiment()
    write_config(experiment.workdir, experiment.config, experiment.data_summary())
    path = experiment.workdir / "config.json"
    content = json.loads(path.read_text())
    assert content["format"] == 4
    assert content["domains"]["coins"]["num_images"] == 20
    assert content["domains"]["coins"]["num_classes"] == 4
    del content["format"]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"has format 1.*train the run again"):
        read_config(experiment.workdir)
    with pytest.raises(UserError, match="is not a run directory"):
        read_config(experiment.workdir / "nothing")
