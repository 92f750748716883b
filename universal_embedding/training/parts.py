"""The model's weights by what trains them alike: a part has one optimizer and one rate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import keras
import tensorflow as tf
from ml_collections import ConfigDict

from universal_embedding.models.backbones import depths, number_of_depths
from universal_embedding.models.embedder import Embedder
from universal_embedding.training.objectives import Objective
from universal_embedding.training.optimizers import StageRate, make_optimizer
from universal_embedding.training.stages import Stage


@dataclass(frozen=True)
class Part:
    """Weights that share a learning rate.

    Attributes:
        group: `backbone`, `projection` or `head`.
        below: How many depths of the group lie above it.
        variables: Its weights.
        optimizer: Built for them.
    """

    group: str
    below: float
    variables: list[keras.Variable]
    optimizer: keras.optimizers.Optimizer


def make_parts(
    embedder: Embedder,
    objectives: Mapping[str, tuple[float, Objective]],
    stages: Sequence[Stage],
    config: ConfigDict,
    step: tf.Variable,
) -> dict[str, Part]:
    """All parts that some stage trains, by name; layers of one depth share a part.

    Args:
        embedder: The model.
        objectives: Weight and objective by name.
        stages: All stages of the run.
        config: `config.optimizer` of the run.
        step: The run's step, for the rates.
    """
    layered = any(stage.layer_decay < 1 or stage.backbone_depths for stage in stages)
    depth_of = depths(embedder.backbone) if layered else {}
    steps = number_of_depths(embedder.backbone) - 1 if layered else 0
    found: dict[str, tuple[str, float, list[keras.Variable]]] = {}

    def add(name: str, group: str, below: float, variables: Sequence[keras.Variable]) -> None:
        if variables and any(stage.trains(group, below) for stage in stages):
            found.setdefault(name, (group, below, []))[2].extend(variables)

    for variable in embedder.backbone.trainable_variables:
        below = round(steps * (1.0 - depth_of.get(variable.path, 1.0)))
        add(f"backbone -{below}" if layered else "backbone", "backbone", below, [variable])
    if embedder.projection is not None:
        add("projection", "projection", 0, embedder.projection.trainable_variables)
    for _, objective in objectives.values():
        for name, variables in objective.parts().items():
            add(name, "head", 0, variables)
    return {
        name: Part(
            group,
            below,
            variables,
            make_optimizer(
                config.name,
                variables,
                StageRate(stages, group, below, step),
                config.weight_decay[group],
            ),
        )
        for name, (group, below, variables) in found.items()
    }
