"""Single training steps on batches made by hand, on any strategy."""

import numpy as np
import tensorflow as tf

from tests.helpers.loss_batches import unit_rows
from universal_embedding.datasets.embedding_table import write_npz
from universal_embedding.training.config import teacher
from universal_embedding.training.train_step import TrainStep

TEACHER_DIM = 6


def teachers_for(loss, records, folder):
    """Teachers of which `random_batch` makes the rows, for the losses that need some."""
    if loss == "embedding_matching":
        pairs = [(r, np.eye(len(r), TEACHER_DIM, dtype=np.float32)) for r in records.values()]
        write_npz(folder / "table.npz", pairs)
        return (teacher(str(folder / "table.npz")),)
    return (teacher("not/loaded/{domain}"),) if "distance" in loss else ()


def random_batch(experiment, stage, seed=0, num_classes=4):
    """A global batch with everything that a loss may need."""
    rng = np.random.default_rng(seed)
    size, num_domains = stage.batch_size, len(experiment.records)
    batch = {
        "label": rng.integers(0, num_classes, size).astype(np.int32),
        "domain": rng.integers(0, num_domains, size).astype(np.int32),
        "record": np.arange(size),
    }
    if stage.input == "features":
        shape = [size, experiment.model.backbone.output_shape[-1]]
        batch["features"] = rng.normal(size=shape).astype(np.float32)
    else:
        shape = [size, stage.image_size, stage.image_size, 3]
        batch["image"] = rng.integers(0, 256, shape).astype(np.uint8)
    if stage.augmentation["mixup"] or stage.augmentation["cutmix"]:
        batch["label2"] = rng.integers(0, num_classes, size).astype(np.int32)
        batch["mix"] = rng.uniform(size=size).astype(np.float32)
    standardized = experiment.config.losses.embedding_matching.weight > 0
    for member in experiment.teachers or ():
        for key in member.batch_keys(standardized):
            batch[key] = unit_rows(rng.normal(size=(size, TEACHER_DIM)))
    return batch


def build_step(experiment, stage):
    """The traced function of one step; it takes a replica's batch, or one for each replica."""
    step, strategy = TrainStep(experiment, stage), experiment.strategy

    @tf.function
    def run(batch):
        return strategy.run(step, args=(batch,))

    return run


def trace_step(experiment, stage):
    """The concrete function of one step, which is never run."""
    size = stage.batch_size // experiment.strategy.num_replicas_in_sync
    specs = {
        name: tf.TensorSpec([size, *values.shape[1:]], values.dtype)
        for name, values in random_batch(experiment, stage).items()
    }
    return build_step(experiment, stage).get_concrete_function(specs)


def take_steps(experiment, stage, num_steps=2):
    """Trains on random batches; returns the sums of the losses and the norms of the gradients."""
    run, strategy = build_step(experiment, stage), experiment.strategy
    size = stage.batch_size // strategy.num_replicas_in_sync
    all_sums, all_norms = [], []
    for seed in range(num_steps):
        batch = random_batch(experiment, stage, seed)

        def slice_batch(context, batch=batch):
            first = context.replica_id_in_sync_group * size
            return {name: tf.constant(v[first : first + size]) for name, v in batch.items()}

        sums, norm = run(strategy.experimental_distribute_values_from_function(slice_batch))
        all_sums.append(strategy.reduce("SUM", sums, axis=None).numpy())
        all_norms.append(strategy.reduce("MEAN", norm, axis=None).numpy())
    return np.stack(all_sums), np.stack(all_norms)


def state_of(experiment):
    """All weights, slots and averages."""
    state = experiment.checkpoint_state()
    owners = ("model", "heads", "optimizers", "ema")
    return {owner: [variable.numpy() for variable in state[owner]] for owner in owners}
