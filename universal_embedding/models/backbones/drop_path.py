"""Stochastic depth (arXiv 1603.09382) that training switches on, whatever its batch norm does.

Keras drops paths with `training=True` only, which also makes batch norm replace its statistics, and
by noise that depends on the number of replicas. Here drop paths act in a context that gives them
their noise, and nowhere else. (KerasHub 0.32's DINOv2 and DINOv3 also scale each path by a random
number instead of dropping it.)
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from universal_embedding.private_apis import flatten_layers

_RATES = ("rate", "drop_prob", "drop_path_rate")  # the attribute, by class
_scope = threading.local()  # replicas are traced by a thread each


def drop_path_rate(layer: keras.Layer) -> float:
    """The probability with which a layer drops a residual path; 0 for every other layer."""
    if isinstance(layer, keras.layers.Dropout):
        shape = layer.noise_shape or (None, None)
        return layer.rate if all(size == 1 for size in shape[1:]) else 0.0
    if not type(layer).__name__.endswith(("DropPath", "StochasticDepth")):
        return 0.0
    return next((getattr(layer, name) for name in _RATES if hasattr(layer, name)), 0.0)


def drop_path_rates(backbone: keras.Model) -> list[float]:
    """The rates of all drop paths of a backbone that are not 0."""
    return [rate for rate in map(drop_path_rate, flatten_layers(backbone)) if rate]


def patch_drop_paths(backbone: keras.Model) -> None:
    """Makes the drop paths of `backbone` act in `stochastic_depth` only."""
    for layer in flatten_layers(backbone):
        if rate := drop_path_rate(layer):
            layer.call = functools.partial(_drop_path, rate)


@contextlib.contextmanager
def stochastic_depth(noise: Callable[[int], tf.Tensor]) -> Iterator[None]:
    """Context in which patched drop paths act.

    Args:
        noise: `i` -> `[b]` in [0, 1) for the i-th path in the order of the calls. A path is dropped
            for the images whose value is below its rate, and scaled up for the others.
    """
    _scope.noise, _scope.num_calls = noise, 0
    try:
        yield
    finally:
        del _scope.noise


def _drop_path(rate: float, path: tf.Tensor, *_: Any, **__: Any) -> tf.Tensor:
    if not hasattr(_scope, "noise"):
        return path
    keep = _scope.noise(_scope.num_calls) >= rate
    _scope.num_calls += 1
    scale = tf.cast(keep, path.dtype) / (1.0 - rate)
    return path * tf.reshape(scale, [-1] + [1] * (len(path.shape) - 1))
