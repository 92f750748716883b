import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from universal_embedding.models.backbones import depths
from universal_embedding.training.config import stage
from universal_embedding.training.strategy import mirrored
from universal_embedding.training.trainer import Trainer

ALL = {"backbone_rate": 1e-2, "projection_rate": 2e-2, "head_rate": 3e-2, "schedule": "constant"}


def weights_of(run):
    heads = run.state()["heads"]
    return [w.numpy() for w in [*run.weights, *heads]]


def train(run, **kwargs):
    assert Trainer(run, **kwargs).run()
    return weights_of(run)


def assert_close(ours, theirs, tolerance=1e-5):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance, rtol=tolerance)


def test_ten_steps_equal_a_plain_loop(make_run, config):
    """The oracle: one optimizer for each group, a tape, the head called as it is."""
    stages = (stage(steps=10, **ALL),)
    ours = train(make_run(stages=stages))

    run = make_run("plain", stages=stages)
    objective = run.objectives["classification"][1]
    embedder = run.embedder
    groups = [
        (embedder.backbone.trainable_variables, 1e-2),
        (embedder.projection.trainable_variables, 2e-2),
        (objective.head.class_weights, 3e-2),
    ]
    optimizers = []
    for variables, rate in groups:
        optimizer = keras.optimizers.AdamW(rate, weight_decay=1e-6)
        optimizer.exclude_from_weight_decay([v for v in variables if len(v.shape) < 2])
        optimizer.build(variables)
        optimizers.append(optimizer)
    batches = run.batches(run.stages[0], 0)
    for _ in range(10):
        batch = next(batches)
        with tf.GradientTape() as tape:
            losses = objective.head(embedder(batch["image"]), batch["label"], batch["domain"])
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, [[v.value for v in of] for of, _ in groups])
        for optimizer, of, (variables, _) in zip(optimizers, gradients, groups, strict=True):
            optimizer.apply(of, variables)
    assert_close(ours, weights_of(run))


@pytest.mark.parametrize("joint", [True, False])
def test_nothing_depends_on_the_number_of_replicas(make_run, config, joint):
    config.head.joint = joint
    config.model.dropout = 0.3
    config.optimizer.clip_norm = 0.5
    config.optimizer.average = 0.9
    stages = (
        stage(steps=6, input="features", projection_rate=1e-2, head_rate=1e-2),
        stage(steps=14, layer_decay=0.5, warmup=3, **ALL),
    )
    one = train(make_run("one", stages=stages))
    strategy = mirrored(2)
    assert strategy.num_replicas_in_sync == 2
    two = train(make_run("two", strategy, stages=stages))
    assert_close(one, two)


def test_the_step_compiles_under_xla_to_the_same_weights(make_run):
    plain = train(make_run("plain"))
    compiled = train(make_run("compiled", jit_compile=True))
    assert_close(plain, compiled, 1e-4)


def test_what_has_no_rate_keeps_its_weights(make_run):
    run = make_run(
        stages=(stage(steps=3, head_rate=1e-2), stage(steps=3, backbone_rate=1e-2, warmup=0))
    )
    before = weights_of(run)
    kinds = ["backbone"] * len(run.embedder.backbone.weights) + ["projection", "head"]
    snapshots = []
    Trainer(run, validate=lambda *_: snapshots.append(weights_of(run)) or SCORES).run()
    changed = [
        {kind for kind, a, b in zip(kinds, x, y, strict=True) if not np.array_equal(a, b)}
        for x, y in zip([before, snapshots[0]], snapshots, strict=True)
    ]
    assert changed == [{"head"}, {"backbone"}]


def test_a_stage_trains_the_last_depths_alone(make_run):
    run = make_run(stages=(stage(steps=3, backbone_depths=1, **ALL),))
    variables = run.embedder.backbone.trainable_variables
    before = [v.numpy() for v in variables]
    train(run)
    depth_of = depths(run.embedder.backbone)
    changed = {
        v.path: not np.array_equal(v.numpy(), x) for v, x in zip(variables, before, strict=True)
    }
    assert changed == {path: depth_of[path] == 1 for path in changed}
    assert set(changed.values()) == {True, False}


SCORES = {"merged/mean/r_at_1": 0.5}


def test_one_domains_steps_leave_other_domains_heads_and_slots_alone(make_run, config):
    config.head.joint = False
    config.data.batch = "domain"
    config.optimizer.weight_decay.head = 0.1
    run = make_run(stages=(stage(steps=6, domains=("boats",), **ALL),))
    others = [part for name, part in run.parts.items() if name in ("head/apples", "head/coins")]
    states = [v for part in others for v in (*part.variables, *part.optimizer.variables)]
    before = [v.numpy() for v in states]
    boats = run.parts["head/boats"].variables[0].numpy()
    train(run)
    assert all(np.array_equal(a, v.numpy()) for a, v in zip(before, states, strict=True))
    assert not np.array_equal(boats, run.parts["head/boats"].variables[0].numpy())


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_learns(make_run, config, precision):
    config.model.precision = precision
    run = make_run(stages=(stage(steps=40, **ALL),))
    Trainer(run).run()
    rows = run.workdir.joinpath("metrics.jsonl").read_text().splitlines()
    first, *_, last = [json.loads(row)["classification"] for row in rows]
    assert last < first
    assert all(w.dtype == tf.float32 for w in run.weights)


def test_float16_skips_a_step_that_overflows_and_halves_its_scale(make_run, config):
    config.model.precision = "mixed_float16"
    run = make_run(stages=(stage(steps=1, **ALL),))
    run.loss_scale.scale.assign(np.float32(1e38))
    before = weights_of(run)
    train(run)
    assert_close(weights_of(run), before, 0)
    assert float(run.loss_scale.scale) == pytest.approx(5e37)


def test_the_average_follows_its_formula(make_run, config):
    config.optimizer.average = 0.5
    run = make_run(stages=(stage(steps=1, **ALL),))
    start = [a.numpy() for a in run.average.averages]
    train(run)
    weights = [w.numpy() for w in run.average.weights]
    for average, a, w in zip(run.average.averages, start, weights, strict=True):
        np.testing.assert_allclose(average, 0.1 * a + 0.9 * w, rtol=1e-5, atol=1e-7)
    with run.averaged():
        np.testing.assert_array_equal(run.weights[0], run.average.averages[0])
    np.testing.assert_array_equal(run.weights[0], weights[0])


def test_a_later_stage_averages_from_the_weights_it_begins_with(make_run, config):
    config.optimizer.average = 0.9
    config.log_every = config.checkpoint_every = 1
    rest = {"backbone_rate": 1e-2, "schedule": "constant"}
    run = make_run(stages=(stage(steps=2, **ALL), stage(steps=3, **rest)))
    seen = []
    advance = run.step_of

    def watched(of):
        seen.append([w.numpy() for w in run.average.weights])  # before the stage's first step
        return advance(of)

    run.step_of = watched
    states = []
    trainer = Trainer(run)
    save = trainer.checkpoints.save
    trainer.checkpoints.save = lambda step: (
        states.append([w.numpy() for w in run.average.weights]),
        save(step),
    )
    assert trainer.run()
    assert len(states) == 5
    expected = seen[1]
    for weights in states[2:]:
        expected = [0.9 * a + 0.1 * w for a, w in zip(expected, weights, strict=True)]
    assert_close([a.numpy() for a in run.average.averages], expected)
