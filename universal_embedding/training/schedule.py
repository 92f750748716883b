"""Training stages, and the learning rates and margin they give at every step."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from ml_collections import ConfigDict

from universal_embedding.errors import UserError
from universal_embedding.models.backbones import split_spec

GROUPS = ("backbone", "projection", "head", "projector")
INPUTS = ("images", "features")
SCHEDULES = ("constant", "cosine", "linear", "step")


@dataclass(frozen=True)
class Stage:
    """A stage of training, checked; see `training.config.stage` for the other fields.

    Attributes:
        start: First step, counted over the whole run.
        image_size: Input size in pixels, never 0.
        batch_size: Images per step, never 0.
        augmentation: All fields of `config.augmentation`, with the stage's own.
        dropout: Never None.
        margin_shift: The stage's margin less `config.head.margin`.
        learning_rates: Peak learning rate by group; groups that are frozen are left out.
    """

    name: str
    start: int
    steps: int
    input: str
    image_size: int
    batch_size: int
    domains: tuple[str, ...]
    augmentation: dict[str, Any]
    dropout: float
    stochastic_depth: bool
    label_smoothing: float
    learning_rates: dict[str, float]
    trainable_towers: tuple[int, ...]
    trainable_blocks: int
    layer_decay: float
    schedule: str
    milestones: tuple[int, ...]
    milestone_factor: float
    warmup_steps: int
    margin_shift: float
    margin_start: float
    margin_warmup_steps: int
    margin_levels: int

    @property
    def end(self) -> int:
        """The step after the last one."""
        return self.start + self.steps

    def is_trainable(self, group: str, depth_from_top: float, tower: int | None = None) -> bool:
        """Whether the stage trains the weights of a group at a depth.

        Args:
            group: One of `GROUPS`.
            depth_from_top: Number of depths above the weights, 0 for the last layer.
            tower: Which of several joined backbones they are of; None: any of them.
        """
        is_frozen_tower = bool(self.trainable_towers) and tower not in (
            None,
            *self.trainable_towers,
        )
        is_frozen_block = 0 < self.trainable_blocks <= depth_from_top
        is_frozen = group == "backbone" and (is_frozen_tower or is_frozen_block)
        return group in self.learning_rates and not is_frozen


def read_stages(run: ConfigDict) -> list[Stage]:
    """Checks the stages of a config and lays them end to end.

    Args:
        run: The config; its values hold where a stage has none.

    Raises:
        UserError: a field has an invalid value; the message names the stage and the field.
    """
    if not run.stages:
        raise UserError("config.stages is empty, so there is nothing to train; add a stage")
    stages: list[Stage] = []
    for index, config in enumerate(run.stages):
        _check_stage(config, run, f"config.stages[{index}]")
        learning_rates = {group: config[f"{group}_lr"] for group in GROUPS}
        if learning_rates["projector"] is None:
            has_projectors = run.losses.embedding_matching.weight > 0
            learning_rates["projector"] = config.head_lr if has_projectors else 0.0
        stages.append(
            Stage(
                name=config.name or f"stage {index + 1}",
                start=stages[-1].end if stages else 0,
                steps=config.steps,
                input=config.input,
                image_size=config.image_size or run.model.image_size,
                batch_size=config.batch_size or run.data.batch_size,
                domains=tuple(config.domains),
                augmentation={**run.augmentation, **config.augmentation},
                dropout=run.model.dropout if config.dropout is None else config.dropout,
                stochastic_depth=config.stochastic_depth,
                label_smoothing=config.label_smoothing,
                learning_rates={group: rate for group, rate in learning_rates.items() if rate},
                trainable_towers=tuple(config.trainable_towers),
                trainable_blocks=config.trainable_blocks,
                layer_decay=config.layer_decay,
                schedule=config.schedule,
                milestones=tuple(config.milestones),
                milestone_factor=config.milestone_factor,
                warmup_steps=config.warmup_steps,
                margin_shift=0.0 if config.margin is None else config.margin - run.head.margin,
                margin_start=config.margin_start,
                margin_warmup_steps=config.margin_warmup_steps,
                margin_levels=config.margin_levels,
            )
        )
    return stages


def learning_rate_at(
    stages: Sequence[Stage],
    group: str,
    depth_from_top: float,
    step: tf.Tensor,
    tower: int | None = None,
) -> tf.Tensor:
    """The learning rate of a group's layer at a step.

    Args:
        stages: All stages of the run.
        group: `backbone`, `projection` or `head`.
        depth_from_top: Number of depths of the group above the layer, 0 for the last.
        step: int scalar, counted over the whole run.
        tower: See `Stage.is_trainable`.

    Returns:
        float32 scalar.
    """
    ends = tf.constant([stage.end for stage in stages[:-1]], tf.int64)
    current = tf.reduce_sum(tf.cast(tf.cast(step, tf.int64) >= ends, tf.int32))
    rates = []
    for stage in stages:
        peak = 0.0
        if stage.is_trainable(group, depth_from_top, tower):
            peak = stage.learning_rates[group] * stage.layer_decay**depth_from_top
        rates.append(peak * _schedule_factor(stage, _steps_done(stage, step)))
    return tf.gather(tf.stack(rates), current)


def margin_at(stage: Stage, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The margin at a step, in terms of the head's own: `scale * margin + shift`.

    In the warmup the margins of all classes grow from `margin_start` to their last values.

    Returns:
        scale, shift: float32 scalars.
    """
    growth = tf.ones([])
    if stage.margin_warmup_steps:
        done = _steps_done(stage, step)
        growth = (done + 1.0) / stage.margin_warmup_steps
        if stage.margin_levels:
            level = tf.floor(done * stage.margin_levels / stage.margin_warmup_steps)
            growth = level / (stage.margin_levels - 1)
        growth = tf.minimum(1.0, growth)
    return growth, growth * stage.margin_shift + (1.0 - growth) * stage.margin_start


def _steps_done(stage: Stage, step: tf.Tensor) -> tf.Tensor:
    # Subtract as integers: float32 cannot tell step 20,000,000 from the next.
    return tf.cast(tf.cast(step, tf.int64) - stage.start, tf.float32)


def _schedule_factor(stage: Stage, done: tf.Tensor) -> tf.Tensor:
    warmup = (
        tf.minimum(1.0, (done + 1.0) / max(stage.warmup_steps, 1)) if stage.warmup_steps else 1.0
    )
    length = max(stage.steps - stage.warmup_steps, 1)
    progress = tf.clip_by_value((done - stage.warmup_steps) / length, 0.0, 1.0)
    if stage.schedule == "cosine":
        return warmup * 0.5 * (1.0 + tf.cos(math.pi * progress))
    if stage.schedule == "linear":
        return warmup * (1.0 - progress)
    if stage.schedule == "step":
        passed = tf.reduce_sum(
            tf.cast(done >= tf.constant(stage.milestones, tf.float32), tf.float32)
        )
        return warmup * stage.milestone_factor**passed
    return warmup * tf.ones_like(progress)


def _check_stage(config: ConfigDict, run: ConfigDict, prefix: str) -> None:
    def check(valid: bool, field: str, requirement: str) -> None:
        if not valid:
            raise UserError(f"{prefix}.{field} is {config[field]!r}; it must be {requirement}")

    rates = {f"{group}_lr": config[f"{group}_lr"] or 0.0 for group in GROUPS}
    check(config.steps > 0, "steps", "at least 1")
    check(config.input in INPUTS, "input", f"one of {', '.join(INPUTS)}")
    check(config.schedule in SCHEDULES, "schedule", f"one of {', '.join(SCHEDULES)}")
    for field, rate in rates.items():
        check(rate >= 0, field, "at least 0")
    if not any(rates.values()):
        raise UserError(f"{prefix}: {', '.join(rates)} are all 0; set one of them above 0")
    check(config.trainable_blocks >= 0, "trainable_blocks", "at least 0")
    _check_towers(config, run, check)
    check(0 < config.layer_decay <= 1, "layer_decay", "in (0, 1]")
    check(0 <= config.warmup_steps <= config.steps, "warmup_steps", "from 0 to steps")
    check(config.batch_size >= 0, "batch_size", "at least 0")
    check(config.dropout is None or 0 <= config.dropout < 1, "dropout", "in [0, 1)")
    reason = "False without a backbone_lr"
    check(not config.stochastic_depth or config.backbone_lr > 0, "stochastic_depth", reason)
    check(
        config.margin_levels >= 0 and config.margin_levels != 1, "margin_levels", "0, or 2 or more"
    )
    steps = [0, *config.milestones, config.steps]
    is_step = config.schedule == "step"
    is_rising = all(a < b for a, b in itertools.pairwise(steps))
    check(
        is_rising and is_step == bool(config.milestones),
        "milestones",
        "rising steps of the stage with schedule='step', otherwise empty",
    )
    unknown = [name for name in config.augmentation if name not in run.augmentation]
    check(not unknown, "augmentation", f"of fields of config.augmentation, not {unknown}")
    _check_head(config, run, check)
    if config.input == "features":
        reason = "0 where the input is cached features of the frozen backbone"
        check(not config.backbone_lr, "backbone_lr", reason)
        reason = "0 where the input is cached features, which have the model's image size"
        check(not config.image_size, "image_size", reason)


def _check_towers(
    config: ConfigDict, run: ConfigDict, check: Callable[[bool, str, str], None]
) -> None:
    """Checks the selection of joined backbones."""
    names, towers = split_spec(run.model.backbone), config.trainable_towers
    reason = f"of positions in the {len(names)} backbones {names}, from 0"
    check(set(towers) <= set(range(len(names))), "trainable_towers", reason)
    reason = "empty where config.model.freeze_batch_norm=False, which trains all backbones"
    check(not towers or run.model.freeze_batch_norm, "trainable_towers", reason)
    check(not towers or config.backbone_lr > 0, "trainable_towers", "empty without a backbone_lr")
    reason = "empty with stochastic_depth, which drops paths of all backbones"
    check(not (towers and config.stochastic_depth), "trainable_towers", reason)


def _check_head(
    config: ConfigDict, run: ConfigDict, check: Callable[[bool, str, str], None]
) -> None:
    """Checks the fields of a stage that change the head of the run."""
    for field in ("margin", "margin_start"):
        margin = config[field]
        is_angle = run.head.margin_type != "arcface" or margin is None or 0 <= margin <= math.pi
        check(is_angle, field, "an angle in radians, from 0 to pi")
    clips = run.head.class_margin and run.head.class_margin_range
    reason = "None where config.head.class_margin_range limits the margins"
    check(config.margin is None or not clips, "margin", reason)
    check(0 <= config.label_smoothing < 1, "label_smoothing", "in [0, 1)")
    sums_classes = run.head.num_subcenters == 1 and not run.head.num_sampled_classes
    reason = "0 with sub-centers or sampled classes: it needs the logits of all classes"
    check(sums_classes or not config.label_smoothing, "label_smoothing", reason)
