"""Domain weights that follow the losses, and their exact resumption."""

import json

import numpy as np
import pytest

from tests.helpers.killing import StartHook, train_until_killed
from universal_embedding.errors import UserError
from universal_embedding.training.config import stage
from universal_embedding.training.hooks import default_hooks
from universal_embedding.training.trainer import train


@pytest.fixture
def config(config):
    config.head.joint = False
    config.data.batching = "per_domain"
    config.data.sampler = "round_robin"
    config.data.reweight_every_steps = 6
    config.data.reweight_by = "classification"
    config.steps_per_execution = 4
    config.log_every_steps = 1
    learning_rates = {"projection_lr": 1e-2, "head_lr": 1e-2}
    config.stages = (
        stage(steps=8, input="features", **learning_rates),
        stage(steps=8, input="features", warmup_steps=2, **learning_rates),
    )
    return config


def test_weights_are_proportional_to_mean_losses(make_experiment, records):
    experiment = make_experiment()
    train(experiment, default_hooks(experiment))
    lines = (experiment.workdir / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    changes = [(row["step"], row) for row in rows if "weight/apples" in row]
    assert [step for step, _ in changes] == [6, 12]
    means = {}
    for first, (last, weights) in zip([0, 6], changes, strict=True):
        for domain in records:
            losses = [
                row[f"classification/{domain}"]
                for row in rows
                if f"classification/{domain}" in row and first < row["step"] <= last
            ]
            means[domain] = np.mean(losses) if losses else means[domain]
        for domain in records:
            expected = means[domain] / sum(means.values())
            assert weights[f"weight/{domain}"] == pytest.approx(expected, rel=1e-5)
    assert not experiment.batch_sampler(experiment.stages[0]).state.round_robin


@pytest.mark.slow
@pytest.mark.parametrize("step", [7, 13])
def test_resuming_is_exact(make_experiment, config, step):
    config.checkpoint_every_steps = step
    whole = make_experiment("whole")
    train(whole, default_hooks(whole))
    train_until_killed(make_experiment("killed"), step, wait_for_checkpoints=True)
    resumed, start = make_experiment("killed"), StartHook()
    train(resumed, [*default_hooks(resumed), start])
    assert start.step == step
    for owner, variables in whole.checkpoint_state().items():
        for a, b in zip(variables, resumed.checkpoint_state()[owner], strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=owner)


def test_unknown_loss_is_refused(make_experiment, config):
    config.data.reweight_by = "udon_teacher"
    with pytest.raises(UserError, match=r"udon_teacher.*classification"):
        make_experiment()


def test_stage_with_domains_is_refused(make_experiment, config):
    config.stages = (stage(steps=4, head_lr=1e-2, domains=("boats",)),)
    with pytest.raises(UserError, match="reweighting needs the losses of all domains"):
        make_experiment()
