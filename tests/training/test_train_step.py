import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.tiny_presets import SIZE, make_tiny_model
from universal_embedding.models.backbones import layer_depths, load_backbone
from universal_embedding.training.config import stage
from universal_embedding.training.data import stage_batches
from universal_embedding.training.hooks import Hook, default_hooks
from universal_embedding.training.strategy import mirrored
from universal_embedding.training.train_step import LossScale, TrainStep
from universal_embedding.training.trainer import train

ALL_GROUPS = {"backbone_lr": 1e-2, "projection_lr": 2e-2, "head_lr": 3e-2, "schedule": "constant"}


def weights_of(experiment):
    heads = experiment.checkpoint_state()["heads"]
    return [weight.numpy() for weight in [*experiment.weights, *heads]]


def train_by_default(experiment, *hooks, evaluators=None):
    assert train(experiment, [*default_hooks(experiment, evaluators), *hooks])
    return weights_of(experiment)


def assert_close(actual, expected, tolerance=1e-5):
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance, rtol=tolerance)


def test_ten_steps_equal_a_plain_loop(make_experiment):
    """The oracle: one optimizer for each group, a tape, the head called directly."""
    stages = (stage(steps=10, **ALL_GROUPS),)
    actual = train_by_default(make_experiment(stages=stages))

    plain = make_experiment("plain", stages=stages)
    model, head = plain.model, plain.losses["classification"][1].head
    groups = [
        (model.backbone.trainable_variables, 1e-2),
        (model.projection.trainable_variables, 2e-2),
        (head.class_weights, 3e-2),
    ]
    optimizers = []
    for variables, learning_rate in groups:
        optimizer = keras.optimizers.AdamW(learning_rate, weight_decay=1e-6)
        optimizer.exclude_from_weight_decay([v for v in variables if len(v.shape) < 2])
        optimizer.build(variables)
        optimizers.append(optimizer)
    batches = stage_batches(plain, plain.stages[0], 0)
    for _ in range(10):
        batch = next(batches)
        with tf.GradientTape() as tape:
            losses = head(model(batch["image"]), batch["label"], batch["domain"])
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, [[v.value for v in variables] for variables, _ in groups])
        for optimizer, group_gradients, (variables, _) in zip(
            optimizers, gradients, groups, strict=True
        ):
            optimizer.apply(group_gradients, variables)
    assert_close(actual, weights_of(plain))


@pytest.mark.parametrize("joint", [pytest.param(True, marks=pytest.mark.slow), False])
def test_weights_do_not_depend_on_the_number_of_replicas(make_experiment, config, joint):
    """AdamW divides by sqrt(v) + epsilon, and its first steps by the gradient itself.

    One weight's first two gradients of 6e-6 cancel to 4e-7 here, of which sums in another order
    change 1e-8: its second step differed by 6e-5, all other weights by at most 5e-6. With an
    epsilon above that noise, all agree to the last digits.
    """
    config.head.joint = joint
    config.model.dropout = 0.3
    config.optimizer.clip_norm = 0.5
    config.optimizer.ema_decay = 0.9
    stages = (
        stage(steps=6, input="features", projection_lr=1e-2, head_lr=1e-2),
        stage(steps=14, layer_decay=0.5, warmup_steps=3, **ALL_GROUPS),
    )
    results = []
    for folder, strategy in (("single", None), ("two", mirrored(2))):
        experiment = make_experiment(folder, strategy, stages=stages)
        for group in experiment.param_groups.values():
            group.optimizer.epsilon = 1e-3
        results.append(train_by_default(experiment))
    assert experiment.strategy.num_replicas_in_sync == 2
    assert_close(*results, 1e-6)


def test_weights_do_not_depend_on_steps_per_execution(make_experiment, config):
    config.log_every_steps = config.checkpoint_every_steps = 100
    step_by_step = train_by_default(make_experiment("step_by_step", steps_per_execution=1))
    many = train_by_default(make_experiment("many", steps_per_execution=8))
    assert_close(step_by_step, many, 0)


def test_xla_gives_the_same_weights(make_experiment):
    plain = train_by_default(make_experiment("plain"))
    compiled = train_by_default(make_experiment("compiled", jit_compile=True))
    assert_close(plain, compiled, 1e-4)


def test_groups_without_learning_rate_keep_their_weights(make_experiment):
    experiment = make_experiment(
        stages=(stage(steps=3, head_lr=1e-2), stage(steps=3, backbone_lr=1e-2, warmup_steps=0))
    )
    before = weights_of(experiment)
    groups = ["backbone"] * len(experiment.model.backbone.weights) + ["projection", "head"]
    snapshots = []

    def evaluate(*_):
        snapshots.append(weights_of(experiment))
        return {"merged/mean/r_at_1": 0.5}

    train_by_default(experiment, evaluators={"val": evaluate})
    changed = [
        {group for group, a, b in zip(groups, x, y, strict=True) if not np.array_equal(a, b)}
        for x, y in zip([before, snapshots[0]], snapshots, strict=True)
    ]
    assert changed == [{"head"}, {"backbone"}]


def test_trainable_blocks_trains_only_the_last_block(make_experiment):
    experiment = make_experiment(stages=(stage(steps=3, trainable_blocks=1, **ALL_GROUPS),))
    variables = experiment.model.backbone.trainable_variables
    before = [variable.numpy() for variable in variables]
    train_by_default(experiment)
    depths = layer_depths(experiment.model.backbone)
    changed = {
        v.path: not np.array_equal(v.numpy(), x) for v, x in zip(variables, before, strict=True)
    }
    assert changed == {path: depths[path] == 1 for path in changed}
    assert set(changed.values()) == {True, False}


def test_steps_of_a_domain_leave_heads_and_slots_of_others_alone(make_experiment, config):
    config.head.joint = False
    config.data.batching = "per_domain"
    config.optimizer.weight_decay.head = 0.1
    experiment = make_experiment(stages=(stage(steps=6, domains=("boats",), **ALL_GROUPS),))
    groups = experiment.param_groups
    others = [groups[name] for name in ("head/apples", "head/coins")]
    variables = [v for group in others for v in (*group.variables, *group.optimizer.variables)]
    before = [variable.numpy() for variable in variables]
    boats = groups["head/boats"].variables[0].numpy()
    train_by_default(experiment)
    assert all(np.array_equal(a, v.numpy()) for a, v in zip(before, variables, strict=True))
    assert not np.array_equal(boats, groups["head/boats"].variables[0].numpy())


@pytest.mark.parametrize(
    "dtype_policy", ["mixed_bfloat16", pytest.param("mixed_float16", marks=pytest.mark.slow)]
)
def test_half_precision_learns(make_experiment, config, dtype_policy):
    config.model.dtype_policy = dtype_policy
    experiment = make_experiment(stages=(stage(steps=40, **ALL_GROUPS),))
    train_by_default(experiment)
    rows = experiment.workdir.joinpath("metrics.jsonl").read_text().splitlines()
    first, *_, last = [json.loads(row)["classification"] for row in rows]
    assert last < first
    assert all(weight.dtype == tf.float32 for weight in experiment.weights)


def test_float16_overflow_skips_the_step_and_halves_the_scale(make_experiment, config):
    config.model.dtype_policy = "mixed_float16"
    experiment = make_experiment(stages=(stage(steps=1, **ALL_GROUPS),))
    experiment.loss_scale.scale.assign(np.float32(1e38))
    before = weights_of(experiment)
    assert_close(train_by_default(experiment), before, 0)
    assert float(experiment.loss_scale.scale) == pytest.approx(5e37)


def test_ema_of_the_first_stage_follows_its_formula(make_experiment, config):
    config.optimizer.ema_decay = 0.5
    experiment = make_experiment(stages=(stage(steps=1, **ALL_GROUPS),))
    ema = experiment.ema
    start = [average.numpy() for average in ema.averages]
    train_by_default(experiment)
    weights = [weight.numpy() for weight in ema.weights]
    for average, a, w in zip(ema.averages, start, weights, strict=True):
        np.testing.assert_allclose(average, 0.1 * a + 0.9 * w, rtol=1e-5, atol=1e-7)
    with experiment.ema_weights():
        np.testing.assert_array_equal(experiment.weights[0], ema.averages[0])
    np.testing.assert_array_equal(experiment.weights[0], weights[0])


class WeightsHook(Hook):
    """Records the weights before each stage and after each step."""

    every_steps = 1

    def __init__(self):
        self.before_stages, self.after_each_step = [], []

    def before_stage(self, context):
        self.before_stages.append([w.numpy() for w in context.experiment.ema.weights])

    def after_steps(self, context, results):
        self.after_each_step.append([w.numpy() for w in context.experiment.ema.weights])


def test_ema_of_a_later_stage_starts_from_its_first_weights(make_experiment, config):
    config.optimizer.ema_decay = 0.9
    backbone = {"backbone_lr": 1e-2, "schedule": "constant"}
    experiment = make_experiment(stages=(stage(steps=2, **ALL_GROUPS), stage(steps=3, **backbone)))
    recorded = WeightsHook()
    train_by_default(experiment, recorded)
    assert len(recorded.after_each_step) == 5
    expected = recorded.before_stages[1]
    for weights in recorded.after_each_step[2:]:
        expected = [0.9 * a + 0.1 * w for a, w in zip(expected, weights, strict=True)]
    assert_close([average.numpy() for average in experiment.ema.averages], expected)


def test_loss_scale_stops_growing_where_nothing_overflows():
    loss_scale = LossScale(growth_steps=1)
    for _ in range(20):
        assert loss_scale.update(tf.constant(1.0))
    assert float(loss_scale.scale) == 2.0**24
    assert not loss_scale.update(tf.constant(np.inf))
    assert float(loss_scale.scale) == 2.0**23


@pytest.mark.slow
def test_a_stage_at_the_pretrained_size_uses_the_pretrained_position_embeddings(
    make_experiment, config, tmp_path
):
    """The model's own size is 48; 32 -> 48 -> 32 would give another table."""
    make_tiny_model("ViTBackbone").save_to_preset(str(tmp_path / "vit"))
    config.model.backbone = str(tmp_path / "vit")
    config.model.image_size = 48
    experiment = make_experiment(stages=(stage(steps=1, image_size=SIZE, head_lr=1e-2),))
    images = np.random.default_rng(0).uniform(0, 255, (2, SIZE, SIZE, 3)).astype(np.float32)
    step = TrainStep(experiment, experiment.stages[0])
    expected = load_backbone(str(tmp_path / "vit"), SIZE)(images)
    np.testing.assert_allclose(step.backbone(images), expected, atol=1e-5)
    images = np.random.default_rng(0).uniform(0, 255, (2, 48, 48, 3)).astype(np.float32)
    larger = load_backbone(str(tmp_path / "vit"), 48)(images)
    np.testing.assert_allclose(experiment.model.features(images), larger, atol=1e-5)
