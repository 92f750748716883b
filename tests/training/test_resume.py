import json
import os
import signal

import numpy as np
import pytest
from support.killing import train_until_killed

from universal_embedding.errors import UserError
from universal_embedding.training.checkpoints import load_embedder
from universal_embedding.training.config import stage
from universal_embedding.training.strategy import mirrored
from universal_embedding.training.trainer import Trainer
from universal_embedding.training.work_directory import write_run

RATES = {"projection_rate": 1e-2, "head_rate": 1e-2}


def everything(run):
    return [value.numpy() for of in run.state().values() for value in of]


def assert_same(ours, theirs):
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.fixture
def two_stages(config):
    config.model.dropout = 0.2
    config.optimizer.average = 0.9
    config.steps_per_call = 1
    config.stages = (
        stage(steps=5, input="features", **RATES),
        stage(steps=10, backbone_rate=1e-2, warmup=4, **RATES),
    )


@pytest.mark.parametrize("at", [3, 6, 13])
def test_a_killed_run_ends_as_one_that_was_never_killed(make_run, two_stages, at, monkeypatch):
    whole = make_run("whole")
    Trainer(whole).run()

    train_until_killed(Trainer(make_run("killed")), at, monkeypatch)
    again = make_run("killed")
    trainer = Trainer(again)
    assert 0 < int(again.step.numpy()) <= at or at < 4
    trainer.run()
    assert_same(everything(whole), everything(again))
    rows = [json.loads(r) for r in (again.workdir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [5, 10, 15]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_same_command_goes_on(make_run, two_stages, number):
    whole = make_run("whole")
    Trainer(whole).run()

    calls = []

    def send(*_):
        calls.append(1)
        if len(calls) == 1:
            os.kill(os.getpid(), number)
        return {"merged/mean/r_at_1": 0.1}

    stopped = Trainer(make_run("stopped"), validate=send)
    if number == signal.SIGINT:
        with pytest.raises(KeyboardInterrupt):
            stopped.run()
    else:
        assert stopped.run() is False
    assert int(stopped.of.step.numpy()) == 5
    again = make_run("stopped")
    Trainer(again).run()
    names = [name for name in whole.state() if name != "best"]
    for name in names:
        assert_same(
            [v.numpy() for v in whole.state()[name]], [v.numpy() for v in again.state()[name]]
        )


def test_a_damaged_checkpoint_is_passed_over(make_run, caplog):
    run = make_run()
    Trainer(run).run()
    newest = run.workdir / "checkpoints" / "last" / "step-10.data-00000-of-00001"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    again = make_run()
    trainer = Trainer(again)
    assert trainer.started_from.endswith("step-8")
    assert "step-10" in caplog.text and "passed over" in caplog.text
    trainer.run()
    assert_same(everything(run), everything(again))


def test_a_state_saved_on_one_replica_goes_on_on_two(make_run, config):
    config.stages = (stage(steps=4, **RATES), stage(steps=6, **RATES))
    whole = make_run("whole")
    Trainer(whole).run()
    half = make_run("half", stages=config.stages[:1])
    Trainer(half).run()
    again = make_run("half", mirrored(2))
    trainer = Trainer(again)
    assert int(again.step.numpy()) == 4
    trainer.run()
    for a, b in zip(whole.weights, again.weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-5)


def test_the_best_checkpoint_is_the_best_validation(make_run, config):
    config.validate_every = 2
    run = make_run()
    write_run(run.workdir, run.config, {})
    seen, scores = [], iter([0.1, 0.6, 0.3, 0.6, 0.2])

    def validate(embedder, _):
        seen.append([w.numpy() for w in embedder.weights])
        return {"merged/mean/r_at_1": next(scores)}

    Trainer(run, validate).run()
    best = load_embedder(run.workdir, "best")
    last = load_embedder(run.workdir, "last")
    assert_same([w.numpy() for w in best.weights], seen[1])
    assert_same([w.numpy() for w in last.weights], seen[4])


def test_a_run_starts_from_another_runs_embedder(make_run, tmp_path):
    first = make_run("first")
    Trainer(first).run()
    second = make_run("second")
    trainer = Trainer(second, init_from=first.workdir)
    assert "first" in trainer.started_from
    assert_same([w.numpy() for w in first.weights], [w.numpy() for w in second.weights])
    assert int(second.step.numpy()) == 0
    with pytest.raises(UserError, match="no whole checkpoint"):
        Trainer(make_run("third"), init_from=tmp_path / "nowhere")


def test_not_a_number_stops_the_run_and_names_step_and_domain(make_run, config):
    config.stages = (stage(steps=20, **RATES),)
    config.checkpoint_every = 3
    run = make_run()
    trainer = Trainer(run)

    def spoil(*_):
        head = run.state()["heads"][0]
        poisoned = head.numpy()
        poisoned[:4] = np.nan
        head.assign(poisoned)

    write = trainer._log
    trainer._log = lambda *args: (write(*args), spoil())
    with pytest.raises(UserError, match=r"loss at step 5 .*apples"):
        trainer.run()
    kept = sorted(path.stem for path in (run.workdir / "checkpoints" / "last").glob("*.index"))
    assert kept == ["step-3"]


def test_another_config_in_the_same_folder_is_refused(make_run, config):
    run = make_run()
    write_run(run.workdir, run.config, {})
    write_run(run.workdir, run.config, {})
    with pytest.raises(UserError, match=r"head\.scale: 16\.0 -> 30\.0"):
        config.head.scale = 30.0
        write_run(run.workdir, make_run().config, {})
