"""Fields that a stage sets for itself: batch size, augmentation, dropout, margin, smoothing."""

import numpy as np
import pytest
import tensorflow as tf

from universal_embedding.errors import UserError
from universal_embedding.training.config import stage
from universal_embedding.training.data import stage_batches
from universal_embedding.training.hooks import Hook, default_hooks
from universal_embedding.training.metric_writer import read_rows
from universal_embedding.training.strategy import mirrored
from universal_embedding.training.trainer import train

RATES = {"backbone_lr": 1e-2, "projection_lr": 1e-2, "head_lr": 1e-2}
PLAIN = {"crop": "none", "flip": False}


def test_batches_have_the_size_and_the_augmentation_of_the_stage(make_experiment, config):
    config.augmentation.flip = True
    config.stages = (
        stage(steps=2, **RATES),
        stage(steps=2, batch_size=4, augmentation=PLAIN, **RATES),
    )
    experiment = make_experiment()
    first, second = (next(stage_batches(experiment, s, s.start)) for s in experiment.stages)
    assert (first["image"].shape[0], second["image"].shape[0]) == (12, 4)
    records = list(experiment.records.values())
    is_plain = []
    for batch in (first, second):
        for image, domain, record in zip(
            batch["image"], batch["domain"], batch["record"], strict=True
        ):
            (content,) = records[int(domain)].read([int(record)])
            whole = tf.image.resize(tf.io.decode_jpeg(content), [16, 16], antialias=True)
            is_plain.append(np.abs(tf.cast(image, tf.float32) - whole).max() < 2)
    assert all(is_plain[12:]) and not all(is_plain[:12])


class CountHook(Hook):
    """Records the number of images of each step."""

    def __init__(self):
        self.counts = []

    def after_steps(self, context, results):
        self.counts += results.loss_sums[:, -1].sum(axis=1).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("batching", ["mixed", "per_domain"])
def test_stages_do_not_depend_on_the_number_of_replicas(make_experiment, config, batching):
    config.data.batching = batching
    config.head.margin = 0.1
    fields = {"dropout": 0.4, "margin": 0.3, "label_smoothing": 0.1, "batch_size": 8}
    config.stages = (stage(steps=2, **RATES), stage(steps=3, **fields, **RATES))
    experiments = make_experiment("one"), make_experiment("two", mirrored(2))
    counts = []
    for experiment in experiments:
        hook = CountHook()
        train(experiment, [*default_hooks(experiment), hook])
        counts.append(hook.counts)
    assert counts == [[12.0] * 2 + [8.0] * 3] * 2
    for owner in ("model", "heads"):
        states = [e.checkpoint_state()[owner] for e in experiments]
        for a, b in zip(*states, strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-5, rtol=1e-5)
    losses = [read_rows(e.workdir / "metrics.jsonl")[-1]["classification"] for e in experiments]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def first_loss(make_experiment, config, folder, **fields):
    config.stages = (stage(steps=1, schedule="constant", head_lr=1e-9, **fields),)
    config.log_every_steps = 1
    experiment = make_experiment(folder)
    train(experiment, default_hooks(experiment))
    return read_rows(experiment.workdir / "metrics.jsonl")[0]["classification"]


@pytest.mark.slow
def test_margin_and_dropout_of_a_stage_are_as_those_of_the_run(make_experiment, config):
    base = first_loss(make_experiment, config, "base")
    own = first_loss(make_experiment, config, "stage", margin=0.2, dropout=0.5)
    config.head.margin, config.model.dropout = 0.2, 0.5
    assert first_loss(make_experiment, config, "run") == pytest.approx(own, rel=1e-6)
    config.head.margin = 0.7
    assert first_loss(make_experiment, config, "none", margin=0.0, dropout=0.0) == base != own


def test_batch_size_of_a_stage_must_divide_over_the_replicas(make_experiment, config):
    config.stages = (stage(steps=1, **RATES), stage(name="last", steps=1, batch_size=5, **RATES))
    with pytest.raises(UserError, match=r"batch size of 'last' is 5, .*2 replicas"):
        make_experiment("two", mirrored(2))


def test_sgd_has_the_momentum_of_the_config(make_experiment, config):
    config.optimizer.name, config.optimizer.momentum = "sgd", 0.0
    optimizers = [group.optimizer for group in make_experiment().param_groups.values()]
    assert {optimizer.momentum for optimizer in optimizers} == {0.0}
