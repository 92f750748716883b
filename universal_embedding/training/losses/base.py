"""The interface of a training loss."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import keras
import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from universal_embedding.errors import UserError
from universal_embedding.models.embedding_model import EmbeddingModel
from universal_embedding.models.heads import MarginHead

if TYPE_CHECKING:
    from universal_embedding.training.teachers import Teachers


@dataclass(frozen=True)
class ModelOutputs:
    """The model's outputs for this replica's slice of a batch.

    Attributes:
        features: `[b, F]` backbone features after dropout.
        embedding: `[b, D]` float32 unit rows.
        step: The run's step, int64 scalar.
        margin_scale: Factor of the head's margins from the stage's schedule, float32 scalar.
        margin_shift: Added to them then, float32 scalar.
        label_smoothing: Share of the target that is spread over all classes.
    """

    features: tf.Tensor
    embedding: tf.Tensor
    step: tf.Tensor
    margin_scale: tf.Tensor
    margin_shift: tf.Tensor | float = 0.0
    label_smoothing: float = 0.0


@dataclass(frozen=True)
class LossContext:
    """Arguments of every loss.

    Attributes:
        config: The whole config of the run; a loss named X finds its options in `losses.X`.
        model: The model to train.
        class_sizes: Number of training images of each class, `[C_d]` int64 by domain, in order.
        teachers: Trained models to distill from; None if the config names none.
        num_replicas: Number of replicas of the run.
        class_ids: The class ids of each domain, `[C_d]` int64 in the order of the labels.
    """

    config: ConfigDict
    model: EmbeddingModel
    class_sizes: Mapping[str, np.ndarray]
    teachers: "Teachers | None" = None
    num_replicas: int = 1
    class_ids: Mapping[str, np.ndarray] = field(default_factory=dict)

    def require_teachers(self) -> "Teachers":
        """Returns the teachers; raises UserError if the config names none."""
        if self.teachers is None:
            raise UserError(
                "config.losses has a distillation loss, which needs trained teachers; set "
                "config.distillation.teachers, such as to (teacher('runs/{domain}'),)"
            )
        return self.teachers


class Loss(ABC):
    """A loss of each example, and the weights that only this loss uses.

    Subclasses are constructed from a `LossContext`, in the scope of the run's strategy.

    Attributes:
        terms: Names of the terms that the loss is the sum of, which are logged separately; empty
            for a loss of one term.
        monitors: Names of values that follow the terms: logged, but not trained.
        state: Variables that `update_state` changes, for the checkpoint.
        head: The classifier over the model's embeddings, if the loss has one.
        uses_whole_batch: Whether the loss of an example depends on the other examples of the batch,
            those of other replicas included; such a loss must say so.
    """

    terms: tuple[str, ...] = ()
    monitors: tuple[str, ...] = ()
    state: Sequence[tf.Variable] = ()
    head: MarginHead | None = None
    uses_whole_batch = False

    @abstractmethod
    def __init__(self, context: LossContext) -> None:
        """Reads the options and creates the weights."""

    @abstractmethod
    def __call__(self, batch: Mapping[str, tf.Tensor], outputs: ModelOutputs) -> tf.Tensor:
        """Computes the loss of each example; call it in a replica context.

        Args:
            batch: This replica's slice of a batch: `label [b]` and `domain [b]` int32, and more.
            outputs: The model's outputs for `batch`.

        Returns:
            `[b]` float32, or `[rows, b]` where the loss has several terms, or monitors after them.
        """

    def variables_by_group(self) -> dict[str, list[keras.Variable]]:
        """The loss's own weights by parameter group; each group has its own optimizer."""
        return {}

    def updated_groups(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Whether a batch updates a group, bool scalars; groups left out are always updated."""
        return {}

    def update_state(self, sums: tf.Tensor, counts: tf.Tensor) -> None:  # noqa: B027
        """Updates `state` after a step; call it in a replica context, if there is a state.

        Args:
            sums: `[rows, domains]` float32: sums of the loss's rows over all replicas.
            counts: `[domains]` float32: the number of examples.
        """

    @property
    def num_rows(self) -> int:
        """The number of values that are logged."""
        return (len(self.terms) or 1) + len(self.monitors)

    def trained(self, rows: tf.Tensor) -> tf.Tensor:
        """Selects, from the rows that a call returned, those to be minimized."""
        return rows[: -len(self.monitors)] if self.monitors else rows


def update_states(losses: Sequence[Loss], sums: tf.Tensor) -> None:
    """Updates the states of losses after a step; call it in a replica context.

    Args:
        losses: All losses, in order.
        sums: `[rows + 1, domains]` float32: this replica's sums of their rows and, in the last one,
            the number of its examples.
    """
    if not any(loss.state for loss in losses):
        return
    sums = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, sums)
    first = 0
    for loss in losses:
        loss.update_state(sums[first : first + loss.num_rows], sums[-1])
        first += loss.num_rows
