"""Training stages, and the learning rates and margin they give at every step."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import tensorflow as tf
from ml_collections import ConfigDict

from universal_embedding.errors import UserError

GROUPS = ("backbone", "projection", "head")
INPUTS = ("images", "features")
SCHEDULES = ("constant", "cosine", "linear")


@dataclass(frozen=True)
class Stage:
    """A stage of training, checked; see `training.config.stage` for the other fields.

    Attributes:
        start: First step, counted over the whole run.
        image_size: Input size in pixels, never 0.
        learning_rates: Peak learning rate by group; groups that are frozen are left out.
    """

    name: str
    start: int
    steps: int
    input: str
    image_size: int
    domains: tuple[str, ...]
    learning_rates: dict[str, float]
    trainable_blocks: int
    layer_decay: float
    schedule: str
    warmup_steps: int
    margin_warmup_steps: int

    @property
    def end(self) -> int:
        """The step after the last one."""
        return self.start + self.steps

    def is_trainable(self, group: str, depth_from_top: float) -> bool:
        """Whether the stage trains the weights of a group at a depth; 0 is the last layer."""
        frozen = (
            group == "backbone"
            and self.trainable_blocks > 0
            and depth_from_top >= self.trainable_blocks
        )
        return group in self.learning_rates and not frozen


def read_stages(configs: Sequence[ConfigDict], image_size: int) -> list[Stage]:
    """Checks the stages of a config and lays them end to end.

    Args:
        configs: `config.stages`.
        image_size: Input size of the stages that set none.

    Raises:
        UserError: a field has an invalid value; the message names the stage and the field.
    """
    if not configs:
        raise UserError("config.stages is empty, so there is nothing to train; add a stage")
    stages: list[Stage] = []
    for index, config in enumerate(configs):
        _check_stage(config, f"config.stages[{index}]")
        learning_rates = {group: config[f"{group}_lr"] for group in GROUPS}
        stages.append(
            Stage(
                name=config.name or f"stage {index + 1}",
                start=stages[-1].end if stages else 0,
                steps=config.steps,
                input=config.input,
                image_size=config.image_size or image_size,
                domains=tuple(config.domains),
                learning_rates={group: rate for group, rate in learning_rates.items() if rate},
                trainable_blocks=config.trainable_blocks,
                layer_decay=config.layer_decay,
                schedule=config.schedule,
                warmup_steps=config.warmup_steps,
                margin_warmup_steps=config.margin_warmup_steps,
            )
        )
    return stages


def learning_rate_at(
    stages: Sequence[Stage], group: str, depth_from_top: float, step: tf.Tensor
) -> tf.Tensor:
    """The learning rate of a group's layer at a step.

    Args:
        stages: All stages of the run.
        group: `backbone`, `projection` or `head`.
        depth_from_top: Number of depths of the group above the layer, 0 for the last.
        step: int scalar, counted over the whole run.

    Returns:
        float32 scalar.
    """
    ends = tf.constant([stage.end for stage in stages[:-1]], tf.int64)
    current = tf.reduce_sum(tf.cast(tf.cast(step, tf.int64) >= ends, tf.int32))
    rates = []
    for stage in stages:
        peak = 0.0
        if stage.is_trainable(group, depth_from_top):
            peak = stage.learning_rates[group] * stage.layer_decay**depth_from_top
        rates.append(peak * _schedule_factor(stage, _steps_done(stage, step)))
    return tf.gather(tf.stack(rates), current)


def margin_scale_at(stage: Stage, step: tf.Tensor) -> tf.Tensor:
    """The factor of the head's margin at a step, float32: rises from 0 to 1 in its warm-up."""
    if not stage.margin_warmup_steps:
        return tf.ones([])
    return tf.minimum(1.0, (_steps_done(stage, step) + 1.0) / stage.margin_warmup_steps)


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
    return warmup * tf.ones_like(progress)


def _check_stage(config: ConfigDict, prefix: str) -> None:
    def check(valid: bool, field: str, requirement: str) -> None:
        if not valid:
            raise UserError(f"{prefix}.{field} is {config[field]!r}; it must be {requirement}")

    rates = {f"{group}_lr": config[f"{group}_lr"] for group in GROUPS}
    check(config.steps > 0, "steps", "at least 1")
    check(config.input in INPUTS, "input", f"one of {', '.join(INPUTS)}")
    check(config.schedule in SCHEDULES, "schedule", f"one of {', '.join(SCHEDULES)}")
    for field, rate in rates.items():
        check(rate >= 0, field, "at least 0")
    if not any(rates.values()):
        raise UserError(f"{prefix}: {', '.join(rates)} are all 0; set one of them above 0")
    check(config.trainable_blocks >= 0, "trainable_blocks", "at least 0")
    check(0 < config.layer_decay <= 1, "layer_decay", "in (0, 1]")
    check(0 <= config.warmup_steps <= config.steps, "warmup_steps", "from 0 to steps")
    if config.input == "features":
        reason = "0 where the input is cached features of the frozen backbone"
        check(not config.backbone_lr, "backbone_lr", reason)
