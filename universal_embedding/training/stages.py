"""Training as a list of stages, and what each says of every parameter group at every step."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import tensorflow as tf
from ml_collections import ConfigDict

from universal_embedding.errors import UserError

GROUPS = ("backbone", "projection", "head")
INPUTS = ("pictures", "features")
SCHEDULES = ("constant", "cosine", "linear")


@dataclass(frozen=True)
class Stage:
    """One stage; the fields are those of `training.config.stage`.

    Attributes:
        start: The first step of the stage, counted over the whole run.
        rates: Learning rate of each group at the schedule's top; groups that do not train are
            not in it.
    """

    name: str
    start: int
    steps: int
    input: str
    image_size: int
    domains: tuple[str, ...]
    rates: dict[str, float]
    backbone_depths: int
    layer_decay: float
    schedule: str
    warmup: int
    margin_warmup: int

    @property
    def end(self) -> int:
        """The step after the last one."""
        return self.start + self.steps

    def trains(self, group: str, below: float) -> bool:
        """Whether weights of a group change that have `below` of its depths above them."""
        deep = group == "backbone" and self.backbone_depths and below >= self.backbone_depths
        return group in self.rates and not deep


def read_stages(configs: Sequence[ConfigDict], image_size: int) -> list[Stage]:
    """Checks the stages of a config and lays them end to end.

    Raises:
        UserError: a field has a value that cannot be; the message names stage and field.
    """
    if not configs:
        raise UserError("config.stages is empty, so nothing would be trained; give a stage")
    stages = []
    for number, config in enumerate(configs):
        where = f"config.stages[{number}]"
        rates = {group: config[f"{group}_rate"] for group in GROUPS}
        _check(config.steps > 0, f"{where}.steps", config.steps, "at least 1")
        _check(config.input in INPUTS, f"{where}.input", config.input, f"one of {INPUTS}")
        _check(
            config.schedule in SCHEDULES,
            f"{where}.schedule",
            config.schedule,
            f"one of {SCHEDULES}",
        )
        _check(min(rates.values()) >= 0, f"{where} rates", rates, "at least 0")
        _check(max(rates.values()) > 0, f"{where} rates", rates, "above 0 for some group")
        _check(
            config.backbone_depths >= 0,
            f"{where}.backbone_depths",
            config.backbone_depths,
            "at least 0",
        )
        _check(0 < config.layer_decay <= 1, f"{where}.layer_decay", config.layer_decay, "in (0, 1]")
        _check(0 <= config.warmup <= config.steps, f"{where}.warmup", config.warmup, "0 .. steps")
        if config.input == "features":
            what = "0 where the input is features of the frozen backbone"
            _check(not rates["backbone"], f"{where}.backbone_rate", rates["backbone"], what)
        stages.append(
            Stage(
                name=config.name or f"stage {number + 1}",
                start=stages[-1].end if stages else 0,
                steps=config.steps,
                input=config.input,
                image_size=config.image_size or image_size,
                domains=tuple(config.domains),
                rates={group: rate for group, rate in rates.items() if rate},
                backbone_depths=config.backbone_depths,
                layer_decay=config.layer_decay,
                schedule=config.schedule,
                warmup=config.warmup,
                margin_warmup=config.margin_warmup,
            )
        )
    return stages


def rate_at(stages: Sequence[Stage], group: str, below: float, step: tf.Tensor) -> tf.Tensor:
    """The learning rate of a group's layer at a step.

    Args:
        stages: All stages of the run.
        group: `backbone`, `projection` or `head`.
        below: How many depths of the group lie above it, 0 for the last.
        step: int scalar, counted over the whole run.

    Returns:
        float32 scalar.
    """
    ends = tf.constant([stage.end for stage in stages[:-1]], tf.int64)
    current = tf.reduce_sum(tf.cast(tf.cast(step, tf.int64) >= ends, tf.int32))
    rates = []
    for stage in stages:
        top = stage.rates[group] * stage.layer_decay**below if stage.trains(group, below) else 0.0
        # Exact whole numbers first: float32 cannot tell step 20,000,000 from its neighbour.
        done = tf.cast(tf.cast(step, tf.int64) - stage.start, tf.float32)
        rates.append(top * _schedule(stage, done))
    return tf.gather(tf.stack(rates), current)


def margin_factor_at(stage: Stage, step: tf.Tensor) -> tf.Tensor:
    """What the head's margin is multiplied by at a step: grows from 0 to 1 over its warm-up."""
    if not stage.margin_warmup:
        return tf.ones([])
    done = tf.cast(tf.cast(step, tf.int64) - stage.start, tf.float32)
    return tf.minimum(1.0, (done + 1.0) / stage.margin_warmup)


def _schedule(stage: Stage, done: tf.Tensor) -> tf.Tensor:
    warm = tf.minimum(1.0, (done + 1.0) / max(stage.warmup, 1)) if stage.warmup else 1.0
    length = max(stage.steps - stage.warmup, 1)
    part = tf.clip_by_value((done - stage.warmup) / length, 0.0, 1.0)
    if stage.schedule == "cosine":
        return warm * 0.5 * (1.0 + tf.cos(math.pi * part))
    if stage.schedule == "linear":
        return warm * (1.0 - part)
    return warm * tf.ones_like(part)


def _check(right: bool, name: str, value: object, wanted: str) -> None:
    if not right:
        raise UserError(f"{name} is {value!r}; it must be {wanted}")
