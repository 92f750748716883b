"""The interface of an objective, and their registry by name."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from universal_embedding.errors import UserError
from universal_embedding.models.embedder import Embedder
from universal_embedding.training.config import OBJECTIVES as KNOWN
from universal_embedding.training.teachers import Teachers


@dataclass(frozen=True)
class Outputs:
    """What the embedder made of a batch on this replica.

    Attributes:
        features: `[b, F]` of the backbone, after dropout.
        embedding: `[b, D]` float32 unit rows.
        step: int64 scalar, the run's step.
        margin_factor: float32 scalar, of the stage's schedule.
    """

    features: tf.Tensor
    embedding: tf.Tensor
    step: tf.Tensor
    margin_factor: tf.Tensor


@dataclass(frozen=True)
class Setting:
    """What an objective is made from.

    Attributes:
        config: The whole config of the run.
        embedder: The model that is trained.
        class_sizes: Training pictures of each class, `[C_d]` int64, for each domain in order.
        teachers: Trained models to learn from, if the config names any.
    """

    config: ConfigDict
    embedder: Embedder
    class_sizes: Mapping[str, np.ndarray]
    teachers: Teachers | None = None

    def required_teachers(self) -> Teachers:
        """The teachers; UserError if the config names none."""
        if self.teachers is None:
            raise UserError(
                "config.objectives asks for distillation, which needs trained teachers; give "
                "config.distillation.teachers their folders, such as runs/{domain}"
            )
        return self.teachers


class Objective:
    """One loss, with the weights that only it uses.

    Subclasses are called `Loss`, take a `Setting`, and override what they need.

    Attributes:
        terms: Names of what the loss is the sum of, each logged by itself; empty for one loss.
    """

    terms: tuple[str, ...] = ()

    def parts(self) -> dict[str, list[keras.Variable]]:
        """Its own weights by part; each part has an optimizer of its own."""
        return {}

    def touched(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """For parts that a batch may leave alone: whether this one changes them, bool scalars."""
        return {}

    def losses(self, batch: Mapping[str, tf.Tensor], outputs: Outputs) -> tf.Tensor:
        """`[b]` float32, one for each example of this replica's batch; `[terms, b]` with terms."""
        raise TypeError(f"{type(self).__name__} gives no losses")


def make_objectives(setting: Setting) -> dict[str, tuple[float, Objective]]:
    """The objectives that `config.objectives` names, with their weights.

    Raises:
        UserError: there is no objective of a name, or none has a weight.
    """
    chosen = {name: weight for name, weight in setting.config.objectives.items() if weight}
    if not chosen:
        raise UserError("config.objectives gives no objective a weight; give one of them a weight")
    objectives = {}
    for name, weight in chosen.items():
        if name not in KNOWN:
            raise UserError(f"config.objectives has {name!r}; there are {', '.join(KNOWN)}")
        module = importlib.import_module(f"{__package__}.{name}")
        objectives[name] = (weight, module.Loss(setting))
    return objectives


def loss_names(objectives: Mapping[str, tuple[float, Objective]]) -> list[str]:
    """What is logged: an objective's name, or `<name>_<term>` for each of its terms."""
    return [
        "_".join(filter(None, (name, term)))
        for name, (_, objective) in objectives.items()
        for term in objective.terms or ("",)
    ]
