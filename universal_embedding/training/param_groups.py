"""Parameter groups: weights that share a learning rate, each group with its own optimizer."""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import keras
import tensorflow as tf
from ml_collections import ConfigDict

from universal_embedding.errors import UserError
from universal_embedding.models.backbones import layer_depths, list_towers, num_depths
from universal_embedding.models.embedding_model import EmbeddingModel
from universal_embedding.models.heads.sharding import ShardedVariable
from universal_embedding.private_apis import (
    disable_gradient_reduction,
    local_updates,
    maybe_merge_call,
)
from universal_embedding.training.half_momentum import with_momentum_dtype
from universal_embedding.training.losses import Loss
from universal_embedding.training.schedule import Stage, learning_rate_at

UNSUPPORTED_OPTIMIZERS = {
    "optimizer": "the base class of the others",
    "lossscaleoptimizer": "which the dtype policy mixed_float16 replaces",
    "multioptimizer": "which config.stages and their learning rates replace",
    "schedulefreeadamw": "which needs other weights in evaluation than in training",
}


@dataclass(frozen=True)
class ParamGroup:
    """Weights that share a learning rate.

    Attributes:
        group: One of `schedule.GROUPS`.
        depth_from_top: Number of depths of the group above these weights; 0 for the last layer.
        variables: The weights.
        learning_rate: The schedule of `optimizer`.
        optimizer: Built for `variables` and no others.
        tower: Which of several joined backbones the weights are of; None for others.
    """

    group: str
    depth_from_top: float
    variables: list[keras.Variable]
    learning_rate: "StageLearningRate"
    optimizer: keras.optimizers.Optimizer
    tower: int | None = None

    def is_trainable(self, stage: Stage) -> bool:
        """Whether a stage trains these weights."""
        return stage.is_trainable(self.group, self.depth_from_top, self.tower)

    @property
    def shard(self) -> ShardedVariable | None:
        """The sharded weight of a group whose weights are sharded; None of any other."""
        return next((v for v in self.variables if isinstance(v, ShardedVariable)), None)

    def apply(self, gradients: Sequence[tf.Tensor], condition: tf.Tensor | None = None) -> None:
        """Updates the variables on this replica alone.

        Args:
            gradients: Gradients of `variables`, summed over the replicas; of sharded ones, of this
                replica's part.
            condition: bool scalar, equal on all replicas: whether to update; None: yes.
        """
        with local_updates(), self.learning_rate.evaluated_once():
            if condition is None:
                self.optimizer.apply(gradients, self.variables)
            else:
                conditional_update(condition, self.optimizer, gradients, self.variables)


@keras.saving.register_keras_serializable("universal_embedding")
class StageLearningRate(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate that the stages give a group's layer at the run's own step.

    An optimizer's count of updates falls behind that step where a group skips steps.

    Keras evaluates a schedule for the update and again for the weight decay of each variable; see
    `evaluated_once`.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        group: str,
        depth_from_top: float,
        step: tf.Variable,
        tower: int | None = None,
    ) -> None:
        self.stages, self.group = stages, group
        self.depth_from_top, self.step, self.tower = depth_from_top, step, tower
        self._rate: tf.Tensor | None = None

    def __call__(self, iterations: tf.Tensor) -> tf.Tensor:
        """The current rate, float32 scalar; `iterations` of the optimizer is ignored."""
        if self._rate is not None:
            return self._rate
        return learning_rate_at(self.stages, self.group, self.depth_from_top, self.step, self.tower)

    @contextlib.contextmanager
    def evaluated_once(self) -> Iterator[None]:
        """Context in which all calls return one tensor."""
        self._rate = self(self.step)
        try:
            yield
        finally:
            self._rate = None

    def get_config(self) -> dict:
        """Identifies the schedule; it is rebuilt from the run's config, never from this."""
        return {"group": self.group, "depth_from_top": self.depth_from_top}


def make_param_groups(
    model: EmbeddingModel,
    losses: Mapping[str, tuple[float, Loss]],
    stages: Sequence[Stage],
    optimizer_config: ConfigDict,
    step: tf.Variable,
) -> dict[str, ParamGroup]:
    """Groups all weights that some stage trains; layers of one backbone depth share a group.

    Args:
        model: The model to train.
        losses: Weight and loss by name.
        stages: All stages of the run.
        optimizer_config: `config.optimizer` of the run.
        step: The run's step, int64, for the learning rates.

    Returns:
        Groups by name: `backbone`, or `backbone/<depth_from_top>` where layers differ in their
        rates, or `backbone/<tower>` and `backbone/<tower>/<depth_from_top>` where backbones are
        joined; `projection`; and the names of `Loss.variables_by_group`.

    Raises:
        UserError: the optimizer is unknown.
    """
    by_depth = any(stage.layer_decay < 1 or stage.trainable_blocks for stage in stages)
    towers = list_towers(model.backbone)
    groups: dict[str, tuple[str, float, int | None, list[keras.Variable]]] = {}

    def add(
        name: str,
        group: str,
        variables: Sequence[keras.Variable],
        depth_from_top: float = 0,
        tower: int | None = None,
    ) -> None:
        if variables and any(s.is_trainable(group, depth_from_top, tower) for s in stages):
            groups.setdefault(name, (group, depth_from_top, tower, []))[3].extend(variables)

    for number, tower in enumerate(towers):
        depths = layer_depths(tower) if by_depth else {}
        max_depth = num_depths(tower) - 1 if by_depth else 0
        for variable in tower.trainable_variables:
            depth_from_top = round(max_depth * (1.0 - depths.get(variable.path, 1.0)))
            parts = ["backbone", *([number] if towers[1:] else []), depth_from_top]
            name = "/".join(map(str, parts if by_depth else parts[:-1]))
            add(name, "backbone", [variable], depth_from_top, number if towers[1:] else None)
    if model.projection is not None:
        add("projection", "projection", model.projection.trainable_variables)
    for _, loss in losses.values():
        for name, variables in loss.variables_by_group().items():
            add(name, "projector" if name == "projector" else "head", variables)
    param_groups = {}
    for name, (group, depth, tower_number, variables) in groups.items():
        learning_rate = StageLearningRate(stages, group, depth, step, tower_number)
        optimizer = make_optimizer(
            optimizer_config.name,
            variables,
            learning_rate,
            optimizer_config.weight_decay[group],
            optimizer_config.momentum,
            optimizer_config.momentum_dtype,
        )
        param_groups[name] = ParamGroup(
            group, depth, variables, learning_rate, optimizer, tower_number
        )
    return param_groups


def make_optimizer(
    name: str,
    variables: Sequence[keras.Variable],
    learning_rate: StageLearningRate,
    weight_decay: float,
    momentum: float = 0.9,
    momentum_dtype: str = "float32",
) -> keras.optimizers.Optimizer:
    """Builds a Keras optimizer that expects gradients already summed over the replicas.

    Weight decay leaves out what `has_weight_decay` does.

    Raises:
        UserError: Keras has no optimizer of this name, or it cannot be used here or so.
    """
    optimizers = {
        key.lower(): value
        for key, value in vars(keras.optimizers).items()
        if isinstance(value, type) and issubclass(value, keras.optimizers.Optimizer)
    }
    for unsupported in UNSUPPORTED_OPTIMIZERS:
        optimizers.pop(unsupported, None)
    if name.lower() in UNSUPPORTED_OPTIMIZERS:
        raise UserError(
            f"config.optimizer.name is {name!r}, {UNSUPPORTED_OPTIMIZERS[name.lower()]}; use one "
            f"of {', '.join(sorted(optimizers))}"
        )
    if name.lower() not in optimizers:
        raise UserError(
            f"config.optimizer.name is {name!r}; Keras has {', '.join(sorted(optimizers))}"
        )
    options: dict[str, float] = {"momentum": momentum} if name.lower() == "sgd" else {}
    # AdamW refuses None; 0 would make the other optimizers decay by 0 at each step.
    if weight_decay or name.lower() == "adamw":
        options["weight_decay"] = weight_decay
    optimizer_class = with_momentum_dtype(optimizers[name.lower()], momentum_dtype)
    optimizer = optimizer_class(learning_rate=learning_rate, **options)
    if weight_decay:
        optimizer.exclude_from_weight_decay([v for v in variables if not has_weight_decay(v)])
    disable_gradient_reduction(optimizer)
    optimizer.build(list(variables))
    return optimizer


def has_weight_decay(variable: keras.Variable) -> bool:
    """Whether weight decay applies, by name: KerasHub's biases of attention have rank 2.

    As in timm and in the code of DeiT (arXiv 2012.12877), what is no matrix of a product is left
    out: biases, normalization weights, class and register tokens, position embeddings.
    """
    layer, _, name = variable.path.rpartition("/")
    is_position = "position" in name or ("position" in layer and name == "embeddings")
    return len(variable.shape) >= 2 and not is_position and not re.search("bias|token", name)


def conditional_update(
    condition: tf.Tensor,
    optimizer: keras.optimizers.Optimizer,
    gradients: Sequence[tf.Tensor],
    variables: Sequence[keras.Variable],
) -> None:
    """Applies `optimizer.apply(gradients, variables)` if `condition`, else changes nothing.

    Zeroing the gradient is not enough: weight decay, momentum and the step counter would still
    advance. Variables that only some batches train, such as the classes of one domain, therefore
    need an optimizer of their own: its `iterations`, and with it Adam's bias correction, count the
    group's own updates. There is no branch and all shapes are static, so this works in XLA and in
    the replica context of a strategy.

    Args:
        condition: bool scalar, the same on all replicas.
        optimizer: Owns `variables` and no others; built.
        gradients: Gradients of `variables`, reduced over the replicas as `optimizer` expects.
        variables: Variables to update.
    """
    state = [variable.value for variable in [*variables, *optimizer.variables]]
    before = [tf.identity(variable) for variable in state]
    optimizer.apply(gradients, variables)

    def undo(strategy: tf.distribute.Strategy, condition: tf.Tensor, before: list) -> None:
        for variable, old in zip(state, before, strict=True):
            strategy.extended.update(variable, _keep_if, args=(condition, old), group=False)

    maybe_merge_call(undo, condition, before)


def _keep_if(variable: tf.Variable, condition: tf.Tensor, old: tf.Tensor) -> None:
    variable.assign(tf.where(condition, variable, old))


def sum_equal_rows(gradient: tf.Tensor, variable: keras.Variable) -> tf.Tensor:
    """A dense gradient: a sparse one that was summed over replicas has a row for each of them."""
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    return tf.math.unsorted_segment_sum(gradient.values, gradient.indices, variable.shape[0])


def clip_by_global_norm(
    gradients: Mapping[str, Sequence[tf.Tensor]],
    clip_norm: float,
    shards: Mapping[str, tf.Tensor] | None = None,
) -> tuple[dict[str, list[tf.Tensor]], tf.Tensor]:
    """Scales the gradients of all groups so that their global norm is at most `clip_norm`.

    Args:
        gradients: Gradients by group.
        clip_norm: Largest norm; 0 leaves the gradients unchanged.
        shards: For groups of which a replica has a part, the sum of the squares of all parts.

    Returns:
        The gradients by group, and their global norm before clipping, float32 scalar.
    """
    flat = tf.nest.flatten(dict(gradients))
    if shards:
        whole = tf.nest.flatten({n: g for n, g in gradients.items() if n not in shards})
        squares = [tf.square(tf.linalg.global_norm(whole))] if whole else []
        norm = tf.sqrt(tf.add_n([*squares, *shards.values()]))
    else:
        norm = tf.linalg.global_norm(flat)
    if clip_norm:
        flat, _ = tf.clip_by_global_norm(flat, clip_norm, use_norm=norm)
    return tf.nest.pack_sequence_as({k: list(v) for k, v in gradients.items()}, flat), norm
