"""The private APIs of Keras, TensorFlow and TFDS that the package uses, each with its reason.

Public ones do not exist for these uses. An upgrade of a library has to look at this file alone.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras
    import tensorflow as tf


def in_xla_context() -> bool:
    """Whether the graph that is being built will be compiled by XLA.

    TensorFlow marks the graphs of `jit_compile=True` (tensorflow/tensorflow#48339) but has no
    public function that reads the mark.
    """
    import tensorflow as tf
    from tensorflow.python.ops import control_flow_util

    return control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def flatten_layers(model: "keras.Model") -> "list[keras.Layer]":
    """The model itself and all layers nested in it.

    The public `Model.layers` ends at the first level: layers inside of a layer are missing
    (keras-team/keras#9590).
    """
    return list(model._flatten_layers())


def seed_generator_from_tensor(seed: "tf.Tensor") -> "keras.random.SeedGenerator":
    """A seed generator for Keras' augmentation layers that is a pure function of a tensor.

    Keras' own generator counts in a variable, so that an image would depend on those before it. Its
    constructor makes that variable, hence it is not called; layers use `next` alone.

    Args:
        seed: `[2]` int32.
    """
    import keras
    import tensorflow as tf

    class TensorSeedGenerator(keras.random.SeedGenerator):
        def __init__(self) -> None:
            self._count = 0

        def next(self, ordered: bool = True) -> tf.Tensor:
            del ordered
            self._count += 1
            return tf.random.experimental.stateless_fold_in(seed, self._count)

    return TensorSeedGenerator()


def maybe_merge_call(fn: Callable[..., None], *args: Any) -> None:
    """Calls `fn(strategy, *args)` where variables may be updated, from a replica context.

    Keras optimizers enter variable updates in this way. The public `ReplicaContext.merge_call`
    would join the replicas' threads even for strategies that need no join, and TensorFlow refuses
    a join inside of loops, conditionals and nested functions, such as those that XLA compiles.
    """
    import tensorflow as tf

    tf.__internal__.distribute.interim.maybe_merge_call(fn, tf.distribute.get_strategy(), *args)


def disable_gradient_reduction(optimizer: "keras.optimizers.Optimizer") -> None:
    """Makes `optimizer.apply` take gradients that are already summed over the replicas.

    Clipping needs the global norm, hence the summed gradients; summing again would multiply them by
    the number of replicas. Keras 2 had `skip_gradients_aggregation` for this, Keras 3 has nothing
    (keras-team/keras#19308).
    """
    optimizer._all_reduce_sum_gradients = list
