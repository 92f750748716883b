import json

import numpy as np
import pytest
import tensorflow as tf

from universal_embedding.errors import UserError
from universal_embedding.training.config import evaluation, stage
from universal_embedding.training.hooks import Hook, default_hooks
from universal_embedding.training.trainer import train


def rows_of(experiment):
    lines = (experiment.workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


class WeightNormHook(Hook):
    """Logs one more number: all that a user has to write for it."""

    every_steps = 4

    def after_steps(self, context, results):
        if self.is_due(context.step, context.stage):
            norm = tf.linalg.global_norm(context.experiment.weights).numpy()
            context.writer.write_scalars(context.step, {"weight_norm": norm})


def test_user_hook_logs_one_more_number(make_experiment):
    experiment = make_experiment()
    assert train(experiment, [*default_hooks(experiment), WeightNormHook()])
    norms = {row["step"]: row["weight_norm"] for row in rows_of(experiment) if "weight_norm" in row}
    assert list(norms) == [4, 8, 10]
    weights = np.concatenate([weight.numpy().ravel() for weight in experiment.weights])
    assert norms[10] == pytest.approx(np.linalg.norm(weights), rel=1e-5)


@pytest.mark.slow
def test_user_hook_changes_no_weight(make_experiment, config):
    config.steps_per_execution = 8
    plain, hooked = make_experiment("plain"), make_experiment("hooked")
    train(plain, default_hooks(plain))
    train(hooked, [*default_hooks(hooked), WeightNormHook()])
    for a, b in zip(plain.weights, hooked.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_training_needs_no_hooks(make_experiment):
    experiment = make_experiment()
    assert train(experiment, [])
    assert int(experiment.step.numpy()) == 10


class CallsHook(Hook):
    """Records the calls of its methods, and the batch preview's images."""

    def __init__(self):
        self.calls = []

    def before_training(self, context):
        self.calls.append(("before_training", context.step))

    def before_stage(self, context):
        self.calls.append(("before_stage", context.stage.name, context.step))

    def after_steps(self, context, results):
        assert results.loss_sums.shape[1:] == (2, 3)
        self.calls.append(("after_steps", context.step, len(results.grad_norms)))

    def close(self):
        self.calls.append(("close",))


def test_hooks_are_called_in_the_documented_order(make_experiment, config):
    config.steps_per_execution = 1
    rates = {"projection_lr": 1e-2}
    stages = (stage(name="a", steps=2, **rates), stage(name="b", steps=1, **rates))
    hook = CallsHook()
    assert train(make_experiment(stages=stages), [hook])
    assert hook.calls == [
        ("before_training", 0),
        ("before_stage", "a", 0),
        ("after_steps", 1, 1),
        ("after_steps", 2, 1),
        ("before_stage", "b", 2),
        ("after_steps", 3, 1),
        ("close",),
    ]


def test_hooks_are_closed_after_an_error(make_experiment):
    class FailHook(CallsHook):
        def after_steps(self, context, results):
            raise RuntimeError("stop")

    hook = FailHook()
    with pytest.raises(RuntimeError, match="stop"):
        train(make_experiment(), [hook])
    assert hook.calls[-1] == ("close",)


def test_log_rows_have_the_documented_names(make_experiment, config, records):
    config.evals.val.every_steps = 4

    def evaluate(model, strategy):
        return {"merged/mean/r_at_1": 0.5, "merged/boats/mmp_at_5": 0.25}

    experiment = make_experiment()
    assert train(experiment, default_hooks(experiment, {"val": evaluate}))
    rows = rows_of(experiment)
    assert [(row["step"], "val/merged/mean/r_at_1" in row) for row in rows] == [
        (4, True),
        (5, False),
        (8, True),
        (10, False),
        (10, True),
    ]
    assert rows[0] == {"step": 4, "val/merged/mean/r_at_1": 0.5, "val/merged/boats/mmp_at_5": 0.25}
    names = {"step", "classification", "grad_norm", "images_per_second", "data_fingerprint"}
    names |= {f"classification/{domain}" for domain in records}
    names |= {f"lr/{group}" for group in ("backbone", "projection", "head")}
    names |= {f"time/{name}" for name in ("first_step", "step_median", "step_p99")}
    assert set(rows[1]) == names


def test_evaluations_have_their_own_intervals(make_experiment, config):
    config.evals.val.every_steps = 3
    config.evals.seen = evaluation(split="train", every_steps=6)
    config.best_metric = "seen/merged/mean/mmp_at_5"
    evaluators = {
        "val": lambda *_: {"merged/mean/r_at_1": 0.1},
        "seen": lambda *_: {"merged/mean/mmp_at_5": 0.2},
    }
    experiment = make_experiment()
    assert train(experiment, default_hooks(experiment, evaluators))
    steps = {name: [] for name in evaluators}
    for row in rows_of(experiment):
        for name in evaluators:
            if any(key.startswith(f"{name}/") for key in row):
                steps[name].append(row["step"])
    assert steps == {"val": [3, 6, 9, 10], "seen": [6, 10]}
    assert float(experiment.best_score.numpy()) == pytest.approx(0.2)
    best = [p.stem for p in (experiment.workdir / "checkpoints" / "best").glob("*.index")]
    assert best == ["step-6"]  # a later equal score is no better


@pytest.mark.parametrize(
    "metric",
    ["merged/mean/r_at_1", "val/separate/mean/r_at_1", "val/merged/cars/r_at_1", "val/merged/mean"],
)
def test_best_metric_that_no_evaluation_gives_is_refused(make_experiment, config, metric):
    config.best_metric = metric
    with pytest.raises(UserError, match=r"config\.best_metric is .*val/merged/mean/r_at_1"):
        default_hooks(make_experiment(), {"val": dict})


def test_evaluator_images_are_shown(make_experiment, config, input_preview):
    class Evaluator:
        def __call__(self, model, strategy):
            return {"merged/mean/r_at_1": 0.5}

        def images(self):
            return {"boats": np.full((4, 6, 3), 200, np.uint8)}

    config.stages = (stage(name="all", steps=2, projection_lr=1e-2),)
    experiment = make_experiment()
    assert train(experiment, default_hooks(experiment, {"val": Evaluator()}))
    images = {}
    for path in (experiment.workdir / "events").iterdir():
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "images":
                    width, height, *pngs = value.tensor.string_val
                    images[value.tag] = (int(width), int(height), len(pngs))
    assert images == {"input/all": (16, 16, 12), "val/boats": (6, 4, 1)}
