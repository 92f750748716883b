"""Optimizer steps that leave out what a batch did not touch, bit for bit."""

from collections.abc import Sequence

import keras
import tensorflow as tf


def apply_if(
    touched: tf.Tensor,
    optimizer: keras.optimizers.Optimizer,
    gradients: Sequence[tf.Tensor],
    variables: Sequence[keras.Variable],
) -> None:
    """`optimizer.apply(gradients, variables)` where `touched`, otherwise no change at all.

    A zero gradient is not enough: weight decay, momentum and the step count would go on. So give
    each group of variables that is trained now and then, such as the classes of one domain, an
    optimizer of its own: its step count (`iterations`, and with it Adam's bias correction and a
    learning rate schedule) then counts the group's own steps. No branch, static shapes: works in
    XLA and in the replica context of a strategy.

    Args:
        touched: Scalar bool, the same on all replicas.
        optimizer: Owns `variables` and no others; built.
        gradients: Of `variables`, already reduced over the replicas as `optimizer.apply` wants.
        variables: What to update.
    """
    state = [variable.value for variable in [*variables, *optimizer.variables]]
    before = [tf.identity(variable) for variable in state]
    optimizer.apply(gradients, variables)

    def undo(strategy: tf.distribute.Strategy, touched: tf.Tensor, before: list) -> None:
        for variable, old in zip(state, before, strict=True):
            strategy.extended.update(variable, _keep_if, args=(touched, old), group=False)

    tf.__internal__.distribute.interim.maybe_merge_call(
        undo, tf.distribute.get_strategy(), touched, before
    )


def _keep_if(variable: tf.Variable, touched: tf.Tensor, old: tf.Tensor) -> None:
    variable.assign(tf.where(touched, variable, old))
