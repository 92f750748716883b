"""One Keras optimizer for each part of the model that has a learning rate of its own."""

from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf

from universal_embedding.errors import UserError
from universal_embedding.training.stages import Stage, rate_at


@keras.saving.register_keras_serializable("universal_embedding")
class StageRate(keras.optimizers.schedules.LearningRateSchedule):
    """The rate that the stages give a group's layer at the run's own step.

    An optimizer's own count of updates differs from it where a group rests for some steps.
    """

    def __init__(
        self, stages: Sequence[Stage], group: str, below: float, step: tf.Variable
    ) -> None:
        self.stages, self.group, self.below, self.step = stages, group, below, step

    def __call__(self, updates: tf.Tensor) -> tf.Tensor:
        """The rate now, float32; `updates` is not looked at."""
        return rate_at(self.stages, self.group, self.below, self.step)

    def get_config(self) -> dict:
        """What identifies the schedule; it is rebuilt from the run's config, never from this."""
        return {"group": self.group, "below": self.below}


def make_optimizer(
    name: str, variables: Sequence[keras.Variable], rate: StageRate, weight_decay: float
) -> keras.optimizers.Optimizer:
    """A built Keras optimizer that takes gradients already summed over the replicas.

    Weight decay leaves out biases, norms and single numbers (variables of rank 0 and 1).

    Raises:
        UserError: Keras has no optimizer of this name, or it takes no weight decay.
    """
    known = {
        key.lower(): value
        for key, value in vars(keras.optimizers).items()
        if isinstance(value, type) and issubclass(value, keras.optimizers.Optimizer)
    }
    if name.lower() not in known:
        raise UserError(f"config.optimizer.name is {name!r}; Keras has {', '.join(sorted(known))}")
    options = {"momentum": 0.9} if name.lower() == "sgd" else {}
    optimizer = known[name.lower()](
        learning_rate=rate, weight_decay=weight_decay or None, **options
    )
    if weight_decay:
        optimizer.exclude_from_weight_decay([v for v in variables if len(v.shape) < 2])
    # The step has summed them, since clipping needs the sums; a second sum would count replicas.
    optimizer._all_reduce_sum_gradients = list
    optimizer.build(list(variables))
    return optimizer


def clip_together(
    gradients: Mapping[str, Sequence[tf.Tensor]], clip_norm: float
) -> tuple[dict[str, list[tf.Tensor]], tf.Tensor]:
    """Scales all gradients so that their common norm is at most `clip_norm` (0: as they are).

    Returns:
        The gradients by part, and their common norm before, float32.
    """
    flat = tf.nest.flatten(dict(gradients))
    norm = tf.linalg.global_norm(flat)
    if clip_norm:
        flat, _ = tf.clip_by_global_norm(flat, clip_norm, use_norm=norm)
    return tf.nest.pack_sequence_as({k: list(v) for k, v in gradients.items()}, flat), norm
