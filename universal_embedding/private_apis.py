"""The private APIs of Keras, TensorFlow and TFDS that the package uses, each with its reason.

Public ones do not exist for these uses. An upgrade of a library has to look at this file alone.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
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


@contextlib.contextmanager
def without_values() -> "Iterator[None]":
    """Context in which Keras builds layers whose variables have a shape and take no memory.

    Keras gives them their values when its stateless scope ends, or at the end of the next one; for
    a model that computes with another's weights they would be a second copy. `share_value` gives
    each variable a value instead.
    """
    import keras
    from keras.src.backend.common import global_state

    name = "uninitialized_variables"
    pending = list(global_state.get_global_attribute(name) or [])
    with keras.StatelessScope(initialize_variables=False):
        yield
    global_state.set_global_attribute(name, pending)


def share_value(variable: "keras.Variable", source: "keras.Variable | tf.Tensor") -> None:
    """Makes a variable built `without_values` read and write `source`, of the same shape."""
    import tensorflow as tf

    variable._value = source if tf.is_tensor(source) else source._value


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
    (keras-team/keras#19308). Its count of updates is equal on all replicas as well, but Keras
    broadcasts it from the first one.
    """
    import tensorflow as tf

    optimizer._all_reduce_sum_gradients = list
    optimizer._iterations.value._aggregation = tf.VariableAggregation.NONE


@contextlib.contextmanager
def local_updates() -> Iterator[None]:
    """Context, within a replica's, in which variables are updated on that replica alone.

    For gradients that are already summed. Otherwise Keras joins all replicas at each variable, and
    the join is refused in functions that XLA compiles. TensorFlow leaves it out by itself where the
    whole step is compiled and every device is a GPU; its tests set this attribute.
    """
    import tensorflow as tf

    strategy = tf.distribute.get_strategy()
    mirrored = (tf.distribute.MirroredStrategy, tf.distribute.MultiWorkerMirroredStrategy)
    if not isinstance(strategy, mirrored):
        yield
        return
    strategy.extended._use_merge_call = lambda: False
    try:
        yield
    finally:
        del strategy.extended._use_merge_call


def called_graph(op: "tf.Operation", attribute: str, index: int | None = None) -> "tf.Graph":
    """The graph of a function that an op calls: the body of a loop, a branch, ...

    TensorFlow gives a function's name as the op's public attribute, and its graph only by this.

    Args:
        op: The op.
        attribute: Its attribute that names the function.
        index: The place in the attribute where that is a list of functions.
    """
    function = op.get_attr(attribute)
    return op.graph._get_function((function if index is None else function[index]).name).graph


def has_xla_kernel(op_type: str) -> bool:
    """Whether XLA can compile ops of this type. TensorFlow lists its kernels nowhere else."""
    from tensorflow.python.framework import kernels

    if op_type in _COMPILED_WITHOUT_KERNEL:
        return True
    _load_xla()
    registered = kernels.get_registered_kernels_for_op(op_type).kernel
    return any(kernel.device_type == "XLA_CPU_JIT" for kernel in registered)


_COMPILED_WITHOUT_KERNEL = frozenset(("Placeholder", "NoOp", "Const"))


@functools.cache
def _load_xla() -> None:
    """Compiles something: XLA's kernels are listed from then on."""
    import tensorflow as tf

    tf.function(tf.identity, jit_compile=True)(tf.zeros([]))


@contextlib.contextmanager
def without_memory(max_bytes: int = 4096) -> "Iterator[None]":
    """Context in which variables larger than `max_bytes` have a shape, and no value or memory.

    Functions that use them can be traced, not run. The public `tf.Variable` always gets a value.
    """
    import tensorflow as tf
    from tensorflow.python.ops.resource_variable_ops import UninitializedVariable

    names = ("trainable", "name", "aggregation", "synchronization", "distribute_strategy")

    def create(next_creator: Callable[..., "tf.Variable"], **options: Any) -> "tf.Variable":
        value, dtype = options["initial_value"], options.get("dtype")
        if callable(value):
            with tf.Graph().as_default():
                value = tf.convert_to_tensor(value(), dtype=dtype)
        elif not hasattr(value, "shape"):
            value = tf.convert_to_tensor(value, dtype=dtype)
        shape, dtype = tf.TensorShape(value.shape), tf.as_dtype(dtype or value.dtype)
        if shape.num_elements() * dtype.size <= max_bytes:
            return next_creator(**options)
        known = {name: options[name] for name in names if options.get(name) is not None}
        return UninitializedVariable(shape=shape, dtype=dtype, **known)

    with tf.variable_creator_scope(create):
        yield


def has_value(variable: "keras.Variable") -> bool:
    """Whether a Keras variable has a value, or was created `without_memory`."""
    return bool(variable.value.is_initialized())


def is_deterministic() -> bool:
    """Whether `tf.config.experimental.enable_op_determinism` was called, which nothing public says.

    Some ops fail then, such as the one that reads the clock.
    """
    from tensorflow.python.framework import config

    return config.is_op_determinism_enabled()


@functools.cache
def add_erfc_to_tf2onnx() -> None:
    """Teaches tf2onnx 1.17 the op `Erfc`, of which TensorFlow makes its exact GELU.

    ONNX has no such operator; onnxruntime refuses a file with the op left as it is.
    """
    import numpy as np
    from tf2onnx import utils
    from tf2onnx.handler import tf_op

    @tf_op("Erfc")
    class Erfc:
        """erfc(x) = 1 - erf(x)."""

        @classmethod
        def version_9(cls, ctx: Any, node: Any, **kwargs: Any) -> None:
            """Replaces a node."""
            dtype, shape = ctx.get_dtype(node.output[0]), ctx.get_shape(node.output[0])
            source, outputs = node.input[0], node.output
            one = ctx.make_const(utils.make_name("one"), np.array(1, np.float32)).output[0]
            ctx.remove_node(node.name)
            erf = ctx.make_node("Erf", [source], dtypes=[dtype], shapes=[shape])
            ctx.make_node(
                "Sub", [one, erf.output[0]], outputs=outputs, dtypes=[dtype], shapes=[shape]
            )
