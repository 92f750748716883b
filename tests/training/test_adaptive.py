"""Domain weights that follow the losses, and their exact resumption."""

import json

import numpy as np
import pytest
from support.killing import train_until_killed

from universal_embedding.errors import UserError
from universal_embedding.training.config import stage
from universal_embedding.training.trainer import Trainer


@pytest.fixture
def config(config):
    config.head.joint = False
    config.data.batch = "domain"
    config.data.sampler = "round_robin"
    config.data.reweight_every = 6
    config.data.reweight_by = "classification"
    config.steps_per_call = 4
    config.log_every = 1
    rates = {"projection_rate": 1e-2, "head_rate": 1e-2}
    config.stages = (
        stage(steps=8, input="features", **rates),
        stage(steps=8, input="features", warmup=2, **rates),
    )
    return config


def rows_of(run):
    return [json.loads(r) for r in (run.workdir / "metrics.jsonl").read_text().splitlines()]


def test_weights_are_the_shares_of_mean_losses(make_run, records):
    run = make_run()
    Trainer(run).run()
    rows = rows_of(run)
    changes = [(row["step"], row) for row in rows if "weight/apples" in row]
    assert [step for step, _ in changes] == [6, 12]
    means = {}
    for first, (last, weights) in zip([0, 6], changes, strict=True):
        for domain in records:
            seen = [
                row[f"classification/{domain}"]
                for row in rows
                if f"classification/{domain}" in row and first < row["step"] <= last
            ]
            means[domain] = np.mean(seen) if seen else means[domain]
        for domain in records:
            expected = means[domain] / sum(means.values())
            assert weights[f"weight/{domain}"] == pytest.approx(expected, rel=1e-5)
    assert not run.sampler.applied(run._draws(run.stages[0])).state.in_turn


@pytest.mark.parametrize("at", [7, 13])
def test_resuming_is_exact(make_run, config, at, monkeypatch):
    config.checkpoint_every = at
    whole = make_run("whole")
    Trainer(whole).run()
    train_until_killed(Trainer(make_run("killed")), at, monkeypatch, all_written=True)
    again = make_run("killed")
    trainer = Trainer(again)
    assert int(again.step.numpy()) == at
    trainer.run()
    for name, of in whole.state().items():
        for a, b in zip(of, again.state()[name], strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=name)


def test_a_loss_that_the_run_has_not_is_named(make_run, config):
    config.data.reweight_by = "udon_teacher"
    with pytest.raises(UserError, match=r"udon_teacher.*classification"):
        make_run()
