"""The estimate of a dry run as text for a terminal."""

import resource
from collections.abc import Callable, Sequence

from universal_embedding.reporting.tables import plain_table
from universal_embedding.training.dry_run.estimate import RunEstimate, StageEstimate

_PARTS = {
    "model": "weights of the model",
    "heads": "weights of the heads",
    "projectors": "weights of the teachers' projectors",
    "optimizer": "optimizer slots",
    "ema": "moving average",
    "gradients": "gradients",
    "activations": "activations",
    "input": "input",
}


def format_dry_run(estimate: RunEstimate) -> str:
    """All numbers of an estimate; memory at the moment of a step when most is needed."""
    device = estimate.device
    hosts = "1 host" if device.num_hosts == 1 else f"{device.num_hosts} hosts"
    sections = [
        f"Estimate for {device.name}: {device.num_replicas} replicas of {_gb(device.memory)} GB on "
        f"{hosts}; nothing was run.",
        f"{estimate.dtype_policy}{', remat' if estimate.remat else ''}; the times assume "
        f"{estimate.utilization:.0%} of the peak FLOP/s.",
        plain_table(_stage_rows(estimate)),
        plain_table(_run_rows(estimate)),
        "Not included: " + "; ".join(estimate.notes) + ".",
        *_problems(estimate),
    ]
    return "\n\n".join(sections)


def _stage_rows(estimate: RunEstimate) -> list[list[str]]:
    def row(title: str, cell: Callable[[StageEstimate], str]) -> list[str]:
        return [title, *map(cell, estimate.stages)]

    return [
        row("stage", lambda stage: stage.name),
        row("input", lambda stage: _input(stage)),
        row("steps", lambda stage: f"{stage.steps:,}"),
        row("batch, all replicas", lambda stage: f"{stage.batch_size:,}"),
        ["memory of a replica, GB", *("" for _ in estimate.stages)],
        *(
            row(f"  {title}", lambda stage, part=part: _gb(stage.memory[part]))  # type: ignore[misc]
            for part, title in _PARTS.items()
        ),
        row("  total", lambda stage: _gb(stage.total_memory)),
        row("  activations with remat", lambda stage: _gb(stage.activations_with_remat)),
        row("  activations without remat", lambda stage: _gb(stage.activations_without_remat)),
        row("forward pass, TFLOP", lambda stage: f"{stage.forward_flops / 1e12:.3g}"),
        row("backward pass, TFLOP", lambda stage: f"{stage.backward_flops / 1e12:.3g}"),
        row("step, ms", lambda stage: _milliseconds(stage.step_seconds)),
        row("images/s", lambda stage: f"{stage.batch_size / stage.step_seconds:,.0f}"),
        row("all steps, hours", lambda stage: _hours(stage.steps * stage.step_seconds)),
    ]


def _run_rows(estimate: RunEstimate) -> list[list[str]]:
    soft_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    files = estimate.num_record_files
    parts = [estimate.train_seconds, estimate.eval_seconds, estimate.feature_seconds]
    at_least = "more than " if None in parts else ""
    return [
        ["whole run, hours", at_least + _hours(sum(filter(None, parts)))],
        ["  steps", _hours(estimate.train_seconds)],
        ["  evaluations, without search", _hours(estimate.eval_seconds)],
        ["  cached features", _hours(estimate.feature_seconds)],
        ["embedding, images/s", f"{1 / estimate.embed_seconds:,.0f}"],
        ["a checkpoint, GB", _gb(estimate.checkpoint_bytes)],
        ["disk of the run, GB", _gb(estimate.disk_bytes)],
        ["files of training records", "unknown" if files is None else f"{files:,}"],
        ["files that this machine lets a process open", f"{soft_limit:,}"],
    ]


def _problems(estimate: RunEstimate) -> Sequence[str]:
    """Reasons why the run would fail on the device, one line each."""
    problems, device = [], estimate.device
    if device.is_tpu and device.num_hosts > 1:
        problems.append(
            f"A TPU of {device.num_hosts} hosts is refused without --allow_unproven_slice: no step "
            "was ever run on one."
        )
    for stage in estimate.stages:
        if stage.total_memory > device.memory:
            problems.append(
                f"The stage {stage.name!r} does not fit: {_gb(stage.total_memory)} GB of "
                f"{_gb(device.memory)} GB."
            )
        if stage.ops_without_kernel:
            names = ", ".join(stage.ops_without_kernel)
            problems.append(f"The stage {stage.name!r} has ops that XLA cannot compile: {names}.")
    return problems


def _input(stage: StageEstimate) -> str:
    return f"images {stage.image_size}" if stage.input == "images" else stage.input


def _gb(num_bytes: int | None) -> str:
    return "-" if num_bytes is None else f"{num_bytes / 1e9:.2f}"


def _milliseconds(seconds: float) -> str:
    value = 1e3 * seconds
    return f"{value:.3g}" if value < 999.5 else f"{value:,.0f}"


def _hours(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"{seconds / 3600:.2f}"
