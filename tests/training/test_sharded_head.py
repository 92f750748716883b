"""`config.head.sharded`: the numbers of a head that every replica holds, in parts of it."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.fake_records import make_domains
from tests.helpers.killing import train_until_killed
from tests.helpers.steps import state_of, take_steps
from tests.training.test_replicas import RATES, set_options
from universal_embedding.errors import UserError
from universal_embedding.models.heads.sharding import ShardedTable
from universal_embedding.training.checkpoints import Checkpoints
from universal_embedding.training.config import stage
from universal_embedding.training.dry_run.devices import find_device
from universal_embedding.training.dry_run.estimate import estimate_run
from universal_embedding.training.experiment import Experiment
from universal_embedding.training.hooks import default_hooks
from universal_embedding.training.initialization import read_class_weights, restore_or_initialize
from universal_embedding.training.metric_writer import read_rows
from universal_embedding.training.param_groups import UNSUPPORTED_OPTIMIZERS
from universal_embedding.training.sharded_head import OPTIMIZERS_OF_WHOLE_MATRICES
from universal_embedding.training.strategy import mirrored
from universal_embedding.training.trainer import train

# Records have 4 classes in each of 3 domains: 4 do not divide over 3 replicas, 12 not over 8.
STAGE = {"steps": 2, **RATES}
OPTIONS = {
    "clipped": {"optimizer.clip_norm": 0.1, "optimizer.ema_decay": 0.9},
    "arcface": {"head.margin_type": "arcface", "head.margin": 0.3},
    "class margins": {"head.class_margin": 0.2, "head.margin_type": "arcface"},
    "no margin, chunked": {"head.margin_type": "none", "head.softmax_impl": "chunked"},
    "subcenters": {"head.num_subcenters": 2, "optimizer.clip_norm": 0.1},
    "mixed images": {"augmentation.mixup": 0.5, "head.margin": 0.1},
    "another loss": {"losses.supcon.weight": 1.0},
    "float16": {"model.dtype_policy": "mixed_float16", "optimizer.clip_norm": 0.1},
    "smoothed": {"optimizer.clip_norm": 0.1},
}
STAGE_OPTIONS = {"smoothed": {"label_smoothing": 0.3}}
CASES = [(name, *case) for name in OPTIONS for case in ((True, 3, False), (False, 2, True))]
FAST = [("smoothed", True, 3, False)]


@pytest.fixture
def config(config):
    config.head.margin = 0.2
    config.optimizer.weight_decay.head = 0.1
    return config


def assert_same(actual, expected, tolerance):
    for owner, values in expected.items():
        for a, b in zip(actual[owner], values, strict=True):
            np.testing.assert_allclose(a, b, rtol=10 * tolerance, atol=tolerance, err_msg=owner)


def compare_with_whole_head(make_experiment, config, replicas, jit_compile=False, tolerance=1e-5):
    """Two steps of a whole head on one replica, and of a sharded one on several."""
    whole = make_experiment("whole")
    expected = take_steps(whole, whole.stages[0])
    config.head.sharded = True
    sharded = make_experiment("sharded", mirrored(replicas), jit_compile=jit_compile)
    actual = take_steps(sharded, sharded.stages[0])
    assert all(isinstance(v, ShardedTable) for v in sharded.checkpoint_state()["heads"])
    np.testing.assert_allclose(actual[0], expected[0], rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(actual[1], expected[1], rtol=tolerance)
    assert_same(state_of(sharded), state_of(whole), tolerance)


@pytest.mark.parametrize(
    ("name", "joint", "replicas", "jit_compile"),
    [case if case in FAST else pytest.param(*case, marks=pytest.mark.slow) for case in CASES],
)
def test_steps_are_those_of_a_whole_head(
    make_experiment, config, name, joint, replicas, jit_compile
):
    set_options(config, OPTIONS[name])
    config.head.joint = joint
    config.stages = (stage(**STAGE, **STAGE_OPTIONS.get(name, {})),)
    tolerance = 2e-2 if name == "float16" else 1e-5
    compare_with_whole_head(make_experiment, config, replicas, jit_compile, tolerance)


def optimizer_names():
    classes = vars(keras.optimizers).items()
    names = {n.lower() for n, c in classes if isinstance(c, type) and hasattr(c, "update_step")}
    return sorted(names - UNSUPPORTED_OPTIMIZERS.keys() - set(OPTIMIZERS_OF_WHOLE_MATRICES))


@pytest.mark.slow
@pytest.mark.parametrize("name", optimizer_names())
def test_every_optimizer_that_is_not_refused_gives_the_same_steps(make_experiment, config, name):
    config.optimizer.name = name
    config.stages = (stage(**STAGE),)
    compare_with_whole_head(make_experiment, config, replicas=3)


def variables_of(experiment):
    groups = experiment.param_groups.values()
    heads = [v.value for g in groups if g.group == "head" for v in g.variables]
    slots = [v.value for g in groups if g.group == "head" for v in g.optimizer.variables]
    return [*heads, *slots]


def test_a_replica_holds_its_part_of_weights_and_slots(make_experiment, config):
    config.head.sharded = True
    experiment = make_experiment(strategy=mirrored(3))
    tables = [v for v in variables_of(experiment) if v.shape.rank == 2]
    assert len(tables) == 3  # the classes and two slots of AdamW
    for table in tables:
        copies = experiment.strategy.experimental_local_results(table)
        assert [math.prod(copy.shape) for copy in copies] == [12 * 5 / 3] * 3
    state = experiment.checkpoint_state()
    assert [v.shape for v in state["heads"]] == [[12, 5]]
    assert [v.shape for v in state["optimizers"]].count([12, 5]) == 2


def losses_by_step(workdir):
    return {row["step"]: row["classification"] for row in read_rows(workdir / "metrics.jsonl")}


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, 2, 3])
@pytest.mark.parametrize("joint", [True, False])
def test_a_run_resumes_on_another_number_of_replicas(make_experiment, config, joint, replicas):
    """The oracle: the run with a whole head on one device, never interrupted."""
    config.head.joint = joint
    config.head.num_subcenters = 2
    config.optimizer.clip_norm, config.optimizer.ema_decay = 0.5, 0.9
    config.log_every_steps, config.checkpoint_every_steps = 1, 3
    config.steps_per_execution = 1
    config.stages = (stage(steps=6, input="features", projection_lr=1e-2, head_lr=1e-2),)
    whole = make_experiment("whole")
    train(whole, default_hooks(whole))
    config.head.sharded = True
    train_until_killed(make_experiment("sharded", mirrored(2)), 4, wait_for_checkpoints=True)
    strategy = mirrored(replicas) if replicas > 1 else None
    resumed = make_experiment("sharded", strategy)
    assert train(resumed, default_hooks(resumed))
    expected, actual = losses_by_step(whole.workdir), losses_by_step(resumed.workdir)
    assert expected.keys() == actual.keys() == set(range(1, 7))
    for step in expected:
        assert actual[step] == pytest.approx(expected[step], rel=1e-5)
    assert_same(state_of(resumed), state_of(whole), 1e-4)


def read_newest(workdir):
    reader = tf.train.load_checkpoint(str(workdir / "checkpoints" / "last" / "step-0"))
    names = [n for n in reader.get_variable_to_shape_map() if n != "_CHECKPOINTABLE_OBJECT_GRAPH"]
    return {name: reader.get_tensor(name) for name in names}


@pytest.mark.parametrize("joint", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_checkpoint_is_that_of_a_whole_head(save_run, config, joint):
    """Names, shapes and values: evaluation, export, soups and `init_from` see no difference."""
    config.head.joint = joint
    whole = save_run("whole").workdir
    config.head.sharded = True
    sharded = save_run("sharded", strategy=mirrored(3)).workdir
    expected, actual = read_newest(whole), read_newest(sharded)
    assert expected.keys() == actual.keys() and any("heads" in name for name in expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)
    classes = read_class_weights(whole), read_class_weights(sharded)
    assert classes[0].keys() == classes[1].keys() == {"apples", "boats", "coins"}
    for domain, (ids, rows) in classes[0].items():
        np.testing.assert_array_equal(classes[1][domain][0], ids)
        np.testing.assert_array_equal(classes[1][domain][1], rows)


def test_classes_of_another_run_are_taken_by_id(save_run, config, tmp_path):
    config.init_from, config.init_head = str(save_run("first").workdir), True
    records = make_domains({"boats": 15, "dates": 9}, num_classes=5, height=20, width=24)
    heads, started_from = [], []
    for replicas in (1, 3):
        config.head.sharded = replicas > 1
        workdir = tmp_path / f"on {replicas}"
        experiment = Experiment.from_config(config, records, workdir, mirrored(replicas))
        state = experiment.checkpoint_state()
        started_from.append(restore_or_initialize(experiment, Checkpoints(workdir, state)))
        heads += [variable.numpy() for variable in state["heads"]]
    assert started_from[0] == started_from[1] and "with 4 of 10 classes" in started_from[0]
    np.testing.assert_array_equal(*heads)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"head.num_sampled_classes": 3}, "num_sampled_classes=3"),
        ({"losses.udon.weight": 1.0, "head.joint": False}, "losses.udon.weight"),
        ({"optimizer.gradient_accumulation_steps": 2}, "gradient_accumulation_steps=2"),
        *[({"optimizer.name": n}, f"name='{n}'") for n in OPTIMIZERS_OF_WHOLE_MATRICES],
    ],
)
def test_what_needs_all_classes_in_one_place_is_refused(make_experiment, config, options, field):
    set_options(config, options)
    make_experiment()
    config.head.sharded = True
    with pytest.raises(UserError, match=f"config.head.sharded=True does not go with .*{field}"):
        make_experiment()


def test_a_dry_run_counts_a_part_of_the_head(config, records):
    config.model.embedding_dim = 600  # tables that have a shape and no memory

    def estimate(sharded):
        config.head.sharded = sharded
        return estimate_run(config, records, {"val": 0}, find_device("v5e-4"), 0.4)

    whole, part = estimate(False), estimate(True)
    memories = whole.stages[0].memory, part.stages[0].memory
    table = 12 * 600 * 4
    assert memories[0]["heads"] == table and memories[1]["heads"] == table / 4
    assert memories[0]["optimizer"] - memories[1]["optimizer"] == 2 * table * 3 / 4
    assert memories[0]["gradients"] - memories[1]["gradients"] >= table * 3 / 4
    assert part.checkpoint_bytes == whole.checkpoint_bytes
    assert part.stages[0].forward_flops == pytest.approx(whole.stages[0].forward_flops, rel=0.05)
