"""Each option gives the same numbers on one and on two replicas, compiled by XLA or not."""

from collections import Counter

import keras
import numpy as np
import pytest

from tests.helpers.steps import state_of, take_steps, teachers_for, trace_step
from universal_embedding.errors import UserError
from universal_embedding.training.config import stage
from universal_embedding.training.losses import LOSSES
from universal_embedding.training.strategy import mirrored

RATES = {"backbone_lr": 1e-2, "projection_lr": 1e-2, "head_lr": 1e-2, "schedule": "constant"}
OPTIONS = {
    "sampled": {"head.num_sampled_classes": 3, "optimizer.clip_norm": 0.1},
    "sampled separate": {"head.num_sampled_classes": 2, "head.joint": False},
    "subcenters": {"head.num_subcenters": 2, "head.softmax_impl": "chunked"},
    "class margins": {"head.class_margin": 0.2, "head.margin_type": "arcface"},
    "mixed": {"augmentation.mixup": 0.5, "head.num_sampled_classes": 3},
    "float16": {"model.dtype_policy": "mixed_float16"},
    "averaged": {"optimizer.ema_decay": 0.9, "model.dropout": 0.5, "optimizer.clip_norm": 0.1},
    "another size": {"model.image_size": 24},
    "sgd": {"optimizer.name": "sgd"},
    "adafactor": {"optimizer.name": "adafactor"},
    "muon": {"optimizer.name": "muon"},
}
FAST = ("sampled", "averaged")


def set_options(config, options):
    for name, value in options.items():
        config.update_from_flattened_dict({name: value})


def compare_replicas(make_experiment, stages, tolerance=1e-5, jit_compile=False):
    """Trains on one replica, and on two, from the same weights and batches."""
    results = []
    for folder, strategy, jit in [("one", None, False), ("two", mirrored(2), jit_compile)]:
        experiment = make_experiment(folder, strategy, stages=stages, jit_compile=jit)
        losses = take_steps(experiment, experiment.stages[0])
        results.append((losses, state_of(experiment)))
    (losses, state), (other_losses, other_state) = results
    np.testing.assert_allclose(other_losses[0], losses[0], rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(other_losses[1], losses[1], rtol=tolerance)
    assert losses[0][:, :-1].any()
    for owner, values in state.items():
        for value, other in zip(values, other_state[owner], strict=True):
            np.testing.assert_allclose(
                other, value, rtol=10 * tolerance, atol=tolerance, err_msg=owner
            )


@pytest.mark.parametrize(
    "name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in OPTIONS]
)
def test_options_do_not_depend_on_the_number_of_replicas(make_experiment, config, name):
    set_options(config, OPTIONS[name])
    # float16: sums of other slices round otherwise, by up to 2 ** -11.
    tolerance = 2e-2 if name == "float16" else 1e-5
    compare_replicas(make_experiment, (stage(steps=2, image_size=16, **RATES),), tolerance)


@pytest.mark.parametrize("jit_compile", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name", [n if n in ("supcon",) else pytest.param(n, marks=pytest.mark.slow) for n in LOSSES]
)
def test_losses_do_not_depend_on_the_number_of_replicas(
    make_experiment, config, records, save_run, tmp_path, name, jit_compile
):
    if name == "compatible":
        config.losses.compatible.run = str(save_run("old").workdir)
    config.losses.classification.weight = 0.0
    config.losses[name].weight = 1.0
    config.losses.udon.teacher_dim = 7
    config.head.joint = name != "udon"
    config.distillation.teachers = teachers_for(name, records, tmp_path)
    compare_replicas(make_experiment, (stage(steps=2, **RATES),), 1e-4, jit_compile)


@pytest.fixture
def batch_norm_backbone(tmp_path):
    keras.utils.set_random_seed(3)
    layers = [
        keras.Input((16, 16, 3)),
        keras.layers.Rescaling(1 / 128, -1),
        keras.layers.Conv2D(6, 3, strides=2, use_bias=False),
        keras.layers.BatchNormalization(momentum=0.5),
        keras.layers.ReLU(),
        keras.layers.GlobalAveragePooling2D(),
    ]
    path = tmp_path / "batch_norm.keras"
    keras.Sequential(layers).save(path)
    return str(path)


@pytest.mark.parametrize("image_size", [16, pytest.param(24, marks=pytest.mark.slow)])
def test_batch_statistics_are_those_of_the_whole_batch(
    make_experiment, config, batch_norm_backbone, image_size
):
    config.model.backbone = batch_norm_backbone
    config.model.freeze_batch_norm = False
    compare_replicas(make_experiment, (stage(steps=2, image_size=image_size, **RATES),))


def test_batch_statistics_cannot_be_compiled_on_several_replicas(
    make_experiment, config, batch_norm_backbone
):
    config.model.backbone = batch_norm_backbone
    config.model.freeze_batch_norm = False
    config.jit_compile = True
    with pytest.raises(UserError, match=r"freeze_batch_norm=False.*jit_compile=False"):
        make_experiment(strategy=mirrored(2))
    make_experiment()


def test_dropout_of_the_backbone_is_refused_on_several_replicas(make_experiment, config, tmp_path):
    layers = [
        keras.Input((16, 16, 3)),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dropout(0.2),
        keras.layers.Dense(4),
    ]
    keras.Sequential(layers).save(tmp_path / "dropout.keras")
    config.model.backbone = str(tmp_path / "dropout.keras")
    make_experiment(strategy=mirrored(2))
    config.model.freeze_batch_norm = False
    with pytest.raises(UserError, match=r"dropout of 0\.2.*config\.model\.dropout"):
        make_experiment(strategy=mirrored(2))


@pytest.mark.parametrize(
    ("num_replicas", "jit_compile"),
    [(1, False)]
    + [pytest.param(*case, marks=pytest.mark.slow) for case in [(2, False), (2, True)]],
)
def test_accumulated_gradients_are_those_of_the_whole_batch(
    make_experiment, config, num_replicas, jit_compile
):
    config.model.dropout = 0.5
    config.optimizer.clip_norm = 0.1
    stages = (stage(steps=2, **RATES),)
    results = []
    for folder, steps in [("one", 1), ("three", 3)]:
        config.optimizer.gradient_accumulation_steps = steps
        strategy = mirrored(2) if num_replicas == 2 and steps > 1 else None
        jit = jit_compile and steps > 1
        experiment = make_experiment(folder, strategy, stages=stages, jit_compile=jit)
        results.append((take_steps(experiment, experiment.stages[0]), state_of(experiment)))
    (losses, state), *others = results
    for other_losses, other_state in others:
        np.testing.assert_allclose(other_losses[0], losses[0], rtol=1e-4, atol=1e-5)
        for owner, values in state.items():
            for value, other in zip(values, other_state[owner], strict=True):
                np.testing.assert_allclose(other, value, rtol=1e-4, atol=1e-5, err_msg=owner)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer.gradient_accumulation_steps": 5}, "is 5, and the batch of 12 of 'stage 1'"),
        ({"optimizer.gradient_accumulation_steps": 0}, "is 0"),
        ({"losses.supcon.weight": 1.0}, "config.losses.supcon compares"),
        ({"model.freeze_batch_norm": False}, "freeze_batch_norm=False"),
    ],
)
def test_accumulation_that_would_change_the_gradient_is_refused(
    make_experiment, config, options, message
):
    config.optimizer.gradient_accumulation_steps = 2
    set_options(config, options)
    with pytest.raises(UserError, match=message):
        make_experiment()


def test_learning_rates_are_evaluated_once_and_updates_are_compiled(make_experiment, config):
    """Keras evaluates a schedule for each variable that decays; cosine schedules have one Cos."""
    config.optimizer.clip_norm = 1.0
    stages = (stage(steps=2, backbone_lr=1e-2, projection_lr=1e-2, head_lr=1e-2),)
    experiment = make_experiment(strategy=mirrored(2), stages=stages, jit_compile=True)
    function = trace_step(experiment, experiment.stages[0])
    graph = function.graph.as_graph_def()
    functions = {f.signature.name: f for f in graph.library.function}
    compiled = [f for f in functions.values() if f.attr["_XlaMustCompile"].b]
    updates = [f for f in compiled if "update" in f.signature.name]
    assert len(updates) == 2  # one for each replica
    for update in updates:
        ops = Counter(node.op for node in update.node_def)
        assert ops["Cos"] == len(experiment.param_groups) == 3
        assert ops["AssignSubVariableOp"] + ops["AssignAddVariableOp"] >= 4
    assert not any(node.op.startswith("Assign") for node in graph.node)
