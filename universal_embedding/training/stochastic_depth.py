"""Stochastic depth of a stage: which paths of the backbone are dropped for which image."""

import contextlib
from collections.abc import Callable

import keras
import tensorflow as tf

from universal_embedding.errors import UserError
from universal_embedding.models.backbones.drop_path import drop_path_rates, stochastic_depth
from universal_embedding.training.schedule import Stage

_FIRST_KEY = 3  # heads sample classes with the keys before; see `losses.classification.class_seed`


def drop_paths(
    stage: Stage, seed: int, step: tf.Tensor, noise: Callable[[tf.Tensor], tf.Tensor]
) -> contextlib.AbstractContextManager[None]:
    """Context in which the backbone's paths are dropped, if the stage asks for it.

    Paths are a function of the run's seed, the step and the place in the batch, as dropout is.

    Args:
        stage: The stage.
        seed: The run's seed.
        step: int64 scalar.
        noise: `[2]` int32 seed -> `[b]` in [0, 1), the numbers of the replica's images.
    """
    if not stage.stochastic_depth:
        return contextlib.nullcontext()
    key = tf.cast(tf.stack([tf.constant(seed, tf.int64), step]), tf.int32)

    def path_noise(path: int) -> tf.Tensor:
        return noise(tf.random.experimental.stateless_fold_in(key, _FIRST_KEY + path))

    return stochastic_depth(path_noise)


def check_drop_paths(backbone: keras.Model, stage: Stage) -> None:
    """Refuses stochastic depth that would do nothing, or differ in the backward pass.

    Raises:
        UserError: the backbone has no drop path, or recomputes its blocks.
    """
    if not stage.stochastic_depth:
        return
    if not drop_path_rates(backbone):
        raise UserError(
            f"the stage {stage.name!r} has stochastic_depth=True, and the backbone has no residual "
            "path with a drop rate; set it to False, or choose another backbone"
        )
    if getattr(backbone, "is_rematerialized", False):
        raise UserError(
            f"the stage {stage.name!r} has stochastic_depth=True, and config.model.remat=True "
            "would recompute blocks with other paths; set one of them to False"
        )
