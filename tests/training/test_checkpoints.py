import tempfile

import tensorflow as tf

from universal_embedding.training.checkpoints import Checkpoints
from universal_embedding.training.hooks import CheckpointHook, Hook, default_hooks
from universal_embedding.training.trainer import train

KINDS = ("best", "last")


def owners(path):
    """`{owner: bytes of its variables}` of a checkpoint."""
    reader = tf.train.load_checkpoint(str(path))
    sizes = {}
    for name in reader.get_variable_to_shape_map():
        if name.startswith(("_", "save_counter")):
            continue
        owner = name.split("/")[0]
        sizes[owner] = sizes.get(owner, 0) + reader.get_tensor(name).nbytes
    return sizes


def test_best_checkpoint_leaves_out_the_optimizer(make_experiment, config):
    config.optimizer.ema_decay = 0.9
    experiment = make_experiment()
    scores = {"merged/mean/r_at_1": 0.5}
    train(experiment, default_hooks(experiment, {"val": lambda *_: scores}))
    best, last = (owners(experiment.workdir / "checkpoints" / k / "step-10") for k in KINDS)
    assert best.keys() == {"step", "evaluation", "model", "ema", "heads"}
    assert last["optimizers"] > 0 and {k: last[k] for k in best} == best
    values = sum(v.numpy().nbytes for v in experiment.checkpoint_state()["model"])
    assert best["model"] == values


class ClockHook(Hook):
    """A step takes 40 seconds; it runs before the checkpoints."""

    def after_steps(self, context, results):
        context.elapsed_seconds = 40.0 * context.step


def saved_steps(make_experiment, config, every_steps, every_minutes):
    config.steps_per_execution = 1
    config.max_to_keep = 10
    experiment = make_experiment(f"{every_steps} {every_minutes}")
    train(experiment, [ClockHook(), CheckpointHook(every_steps, every_minutes)])
    folder = experiment.workdir / "checkpoints" / "last"
    return sorted(int(path.stem.removeprefix("step-")) for path in folder.glob("*.index"))


def test_checkpoints_by_time_and_by_steps(make_experiment, config):
    assert saved_steps(make_experiment, config, 0, 0.0) == [10]
    assert saved_steps(make_experiment, config, 0, 2.0) == [3, 6, 9, 10]
    assert saved_steps(make_experiment, config, 4, 2.0) == [3, 4, 7, 8, 10]


def test_hosts_but_the_chief_read_and_write_nothing(tmp_path):
    state = {"step": [tf.Variable(3)], "model": [tf.Variable([1.0, 2.0])]}
    chief = Checkpoints(tmp_path, state)
    chief.save(3)
    chief.wait()
    before = sorted(tmp_path.rglob("*"))
    other_state = {"step": [tf.Variable(0)], "model": [tf.Variable([0.0, 0.0])]}
    other = Checkpoints(tmp_path, other_state, is_chief=False)
    assert other.restore_newest().endswith("step-3")
    assert other_state["step"][0].numpy() == 3
    assert other_state["model"][0].numpy().tolist() == [1.0, 2.0]
    other.save(4)
    other.save_best(4)
    other.wait()
    assert sorted(tmp_path.rglob("*")) == before


def test_hosts_with_values_of_their_own_all_save(tmp_path, monkeypatch):
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    on_read = tf.Variable(
        1.0,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.SUM,
    )
    other = Checkpoints(tmp_path, {"model": [on_read]}, is_chief=False)
    other.save(4)
    other.wait()
    assert not (tmp_path / "checkpoints").exists()
    assert len(list((tmp_path / "scratch").rglob("step-4.index"))) == 1
