"""Memory, FLOPs, time and disk of a whole run on a device."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from ml_collections import ConfigDict

from universal_embedding.datasets.records import Records
from universal_embedding.errors import UserError
from universal_embedding.models.heads.sharding import ShardedTable
from universal_embedding.training.checkpoints import BEST_STATE
from universal_embedding.training.dry_run.devices import Device
from universal_embedding.training.dry_run.flops import count_flops
from universal_embedding.training.dry_run.memory import measure
from universal_embedding.training.dry_run.step_graph import read_graph
from universal_embedding.training.dry_run.tracing import (
    PlannedRecords,
    build_without_memory,
    trace_step,
)
from universal_embedding.training.experiment import Experiment
from universal_embedding.training.schedule import Stage

_PREFETCHED_BATCHES = 2  # on the device: the one in use and the next
_FLOAT_BYTES = 4


@dataclass(frozen=True)
class StageEstimate:
    """One stage. Bytes are those of one replica, FLOPs those of one step of all replicas.

    Attributes:
        name: The stage's name.
        input: `images` or `features`.
        image_size: Side of the images in pixels.
        steps: Number of steps.
        batch_size: Images of a step, over all replicas.
        memory: Bytes by part, at the moment of a step when most is needed.
        activations_with_remat: Bytes of the activations if blocks are recomputed; None where the
            backbone has no blocks.
        activations_without_remat: The same if they are kept.
        forward_flops: FLOPs of the forward pass.
        backward_flops: FLOPs of the backward pass, recomputation included.
        step_seconds: Time of a step.
        ops_without_kernel: Types of the ops that XLA cannot compile, where it has to.
    """

    name: str
    input: str
    image_size: int
    steps: int
    batch_size: int
    memory: dict[str, int]
    activations_with_remat: int | None
    activations_without_remat: int
    forward_flops: int
    backward_flops: int
    step_seconds: float
    ops_without_kernel: list[str]

    @property
    def total_memory(self) -> int:
        """Bytes that the stage needs on a replica."""
        return sum(self.memory.values())


@dataclass(frozen=True)
class RunEstimate:
    """A run on a device; see `estimate_run`.

    Attributes:
        device: The device.
        utilization: The share of its peak FLOP/s that the times assume.
        dtype_policy: The precision of the model.
        remat: Whether the config recomputes activations.
        stages: The stages, in order.
        num_eval_images: Images that are embedded for evaluations in the whole run; None if unknown.
        eval_seconds: The time of that; None if unknown.
        embed_seconds: Time to embed one image, on all replicas.
        feature_seconds: Time to compute the features that stages read; None if unknown.
        checkpoint_bytes: A complete checkpoint.
        disk_bytes: Checkpoints that are kept, the one that is being written, cached features, and
            rows of teachers that have projectors.
        num_record_files: Files of training records; None if unknown.
        notes: What the numbers leave out.
    """

    device: Device
    utilization: float
    dtype_policy: str
    remat: bool
    stages: list[StageEstimate]
    num_eval_images: int | None
    eval_seconds: float | None
    embed_seconds: float
    feature_seconds: float | None
    checkpoint_bytes: int
    disk_bytes: int
    num_record_files: int | None
    notes: list[str]

    @property
    def train_seconds(self) -> float:
        """Time of all steps."""
        return sum(stage.steps * stage.step_seconds for stage in self.stages)

    def to_dict(self) -> dict[str, Any]:
        """All numbers, for JSON: bytes, FLOPs, seconds."""
        stages = [
            dataclasses.asdict(stage) | {"total_memory": stage.total_memory}
            for stage in self.stages
        ]
        totals = {"train_seconds": self.train_seconds, "stages": stages}
        return dataclasses.asdict(self) | totals


def estimate_run(
    config: ConfigDict,
    records: Mapping[str, Records],
    num_eval_images: Mapping[str, int | None],
    device: Device,
    utilization: float,
) -> RunEstimate:
    """Estimates what the run of a config needs on a device.

    Args:
        config: The config of the run.
        records: Training records by domain, or `tracing.planned_records`.
        num_eval_images: Images of one evaluation, by the names of `config.evals`; None if unknown.
        device: The device.
        utilization: The share of the peak FLOP/s that matrix products reach, in (0, 1].

    Raises:
        UserError: a value of the config cannot be used, or the batch does not fit the device.
    """
    experiment = build_without_memory(config, records, config.model.remat, device.num_replicas)
    for stage in experiment.stages:
        if stage.batch_size % device.num_replicas:
            raise UserError(
                f"the batch_size of the stage {stage.name!r} is {stage.batch_size}, which does not "
                f"divide over the {device.num_replicas} replicas of --device={device.name}; set "
                "config.data.batch_size or the stage's to a multiple of them"
            )
    other = _build_other_remat(config, records, device.num_replicas)
    stages = [
        _estimate_stage(experiment, other, stage, device, utilization)
        for stage in experiment.stages
    ]
    embed_seconds = _embed_flops(experiment) / (
        _peak(config, device) * device.num_replicas * utilization
    )
    num_train_images = _count_images(records.values())
    feature_stages = [stage for stage in experiment.stages if stage.input == "features"]
    num_features = num_train_images if feature_stages else 0
    num_evals = _count_eval_images(experiment, num_eval_images)
    state = {owner: _bytes(values) for owner, values in experiment.checkpoint_state().items()}
    best = sum(size for owner, size in state.items() if owner in BEST_STATE)
    feature_dim = experiment.model.backbone.output_shape[-1]
    checkpoints = (config.max_to_keep + 1) * sum(state.values()) + 2 * best
    return RunEstimate(
        device=device,
        utilization=utilization,
        dtype_policy=config.model.dtype_policy,
        remat=config.model.remat,
        stages=stages,
        num_eval_images=num_evals,
        embed_seconds=embed_seconds,
        eval_seconds=None if num_evals is None else num_evals * embed_seconds,
        feature_seconds=None if num_features is None else num_features * embed_seconds,
        checkpoint_bytes=sum(state.values()),
        disk_bytes=checkpoints
        + (num_features or 0) * feature_dim * _FLOAT_BYTES
        + (num_train_images or 0) * _teacher_row_dims(experiment) * _FLOAT_BYTES,
        num_record_files=_count_files(records.values()),
        notes=_notes(experiment, device),
    )


def _estimate_stage(
    experiment: Experiment,
    other: Experiment | None,
    stage: Stage,
    device: Device,
    utilization: float,
) -> StageEstimate:
    config = experiment.config
    replica_batch = stage.batch_size // device.num_replicas
    compiled = device.is_tpu or config.jit_compile
    graph, batch_bytes = trace_step(experiment, stage, replica_batch, compiled)
    step_memory = measure(graph, fused=compiled)
    other_activations = None
    if other is not None:
        other_graph, _ = trace_step(other, stage, replica_batch, compiled)
        other_activations = measure(other_graph, fused=compiled).activations
    state = {owner: _held_bytes(values) for owner, values in experiment.checkpoint_state().items()}
    memory = {
        "model": state["model"],
        "heads": state["heads"],
        "projectors": state["projectors"],
        "optimizer": state["optimizers"],
        "ema": state["ema"],
        "gradients": step_memory.gradients * _gradient_scale(config),
        "activations": step_memory.activations,
        "input": _PREFETCHED_BATCHES * batch_bytes,
    }
    forward, total = count_flops(graph.forward()), count_flops(graph)
    has_remat = bool(config.model.remat)
    activations = (other_activations, step_memory.activations)
    return StageEstimate(
        name=stage.name,
        input=stage.input,
        image_size=stage.image_size,
        steps=stage.steps,
        batch_size=stage.batch_size,
        memory=memory,
        activations_with_remat=activations[has_remat],
        activations_without_remat=activations[not has_remat] or 0,
        forward_flops=forward * device.num_replicas,
        backward_flops=(total - forward) * device.num_replicas,
        step_seconds=total / (_peak(config, device) * utilization)
        + _update_bytes(experiment, stage) / device.bandwidth,
        ops_without_kernel=graph.ops_without_kernel() if compiled else [],
    )


def _gradient_scale(config: ConfigDict) -> int:
    """Size of the gradients as replicas sum them, in float32, to their size in the trace.

    There, a gradient in 16 bits is cast by the op that reads it.
    """
    return 1 if config.model.dtype_policy == "float32" else 2


def _build_other_remat(
    config: ConfigDict, records: Mapping[str, Records], num_replicas: int
) -> Experiment | None:
    """The run with `config.model.remat` reversed; None where the backbone does not support it."""
    try:
        return build_without_memory(config, records, not config.model.remat, num_replicas)
    except UserError:
        return None


def _peak(config: ConfigDict, device: Device) -> float:
    is_float32 = config.model.dtype_policy == "float32"
    return device.peak_flops_float32 if is_float32 else device.peak_flops


def _update_bytes(experiment: Experiment, stage: Stage) -> int:
    """Bytes that the update of a stage's weights reads and writes."""
    num_bytes = 0
    for group in experiment.param_groups.values():
        if group.is_trainable(stage):
            weights = _bytes(variable.value for variable in group.variables)
            slots = _bytes(variable.value for variable in group.optimizer.variables)
            num_bytes += 2 * weights + 2 * slots + 2 * weights  # and the gradients
    if experiment.ema is not None:
        num_bytes += 3 * _bytes(experiment.ema.averages)
    return num_bytes


def _embed_flops(experiment: Experiment) -> int:
    """FLOPs to embed one image."""
    model = experiment.model
    spec = tf.TensorSpec([1, model.image_size, model.image_size, 3], tf.float32)
    embed = tf.function(lambda images: model(images, training=False))
    return count_flops(read_graph(embed.get_concrete_function(spec).graph))


def _count_eval_images(experiment: Experiment, num_images: Mapping[str, int | None]) -> int | None:
    """Images that all evaluations of the run embed."""
    total = 0
    num_steps = experiment.stages[-1].end
    for name, options in experiment.config.evals.items():
        steps = {stage.end for stage in experiment.stages}
        if options.every_steps:
            steps |= set(range(options.every_steps, num_steps + 1, options.every_steps))
        images = num_images[name]
        if images is None:
            return None
        total += images * len(steps)
    return total


def _count_images(records: Iterable[Records]) -> int | None:
    counts = [
        domain.num_train_images if isinstance(domain, PlannedRecords) else len(domain)
        for domain in records
    ]
    return None if None in counts else sum(counts)


def _count_files(records: Iterable[Records]) -> int | None:
    paths = [domain.shard_paths for domain in records]
    return None if not all(paths) else sum(map(len, paths))


def _teacher_row_dims(experiment: Experiment) -> int:
    """Numbers that teachers' rows of one image have on disk, where their sizes are known."""
    if not experiment.config.losses.embedding_matching.weight:
        return 0
    return sum(2 * teacher.dim(experiment.strategy) for teacher in experiment.teachers or ())


def _notes(experiment: Experiment, device: Device) -> list[str]:
    notes = ["waiting for input"]
    if device.num_replicas > 1:
        notes.append("the time of the gradients' all-reduce and its buffers")
    if experiment.teachers is not None:
        notes.append("the models of teachers (their embeddings come with the batch)")
    if not device.is_tpu and not experiment.config.jit_compile:
        notes.append(
            "buffers that TensorFlow reuses in place without XLA (config.jit_compile is False: "
            "each op is counted with a result of its own)"
        )
    return notes


def _held_bytes(state: Iterable[tf.Variable | ShardedTable]) -> int:
    """Bytes that a replica holds: of a sharded table, its part."""
    return _bytes(v.shard if isinstance(v, ShardedTable) else v for v in state)


def _bytes(variables: Iterable[tf.Variable | ShardedTable]) -> int:
    return sum(v.shape.num_elements() * v.dtype.size for v in variables)
