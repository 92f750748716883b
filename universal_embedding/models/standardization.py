"""Standardization of backbone features by statistics of training images."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# Beside a root mean square of 1: keeps the gradient of a power finite at 0, where many features of
# networks with ReLU are.
SMALL = 0.01
Expectation = Callable[[Callable[[np.ndarray], np.ndarray]], np.ndarray]


@keras.saving.register_keras_serializable("universal_embedding")
class Standardization(keras.layers.Layer):
    """Centers `[B, F]` features and scales those of each backbone by one number.

    After it, the features of each backbone have mean 0 and a mean squared length of 1 over the
    training images, so that none outweighs another where they are joined. One number for all
    features of a backbone keeps the proportions between its own: dividing each by its standard
    deviation, or whitening, strengthens directions that are mostly noise
    (benchmarks/results/fusion.md).

    With a power, x becomes `sign(x) |x| ** power` before that. Activations are bursty: a few
    large ones decide a similarity. The square root tempers them, as in the Fisher vectors of
    Perronnin et al. (ECCV 2010) and in RootSIFT (CVPR 2012).

    Args:
        feature_dims: F_1, F_2, ...: the number of features of each backbone; F is their sum.
        power: In (0, 1]; 1 leaves it out.

    Attributes:
        input_scale: `[F]` float32 weight: 1 / the root mean square of a backbone's features.
        mean: `[F]` float32 weight.
        scale: `[F]` float32 weight.
        num_images: Number of images behind them, float32 weight; 0 before `fit`.
    """

    def __init__(self, feature_dims: Sequence[int], power: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.feature_dims, self.power = tuple(feature_dims), power
        shape = (sum(self.feature_dims),)
        self.input_scale = self._add_statistic(shape, "ones", "input_scale")
        self.mean = self._add_statistic(shape, "zeros", "mean")
        self.scale = self._add_statistic(shape, "ones", "scale")
        self.num_images = self._add_statistic((), "zeros", "num_images")
        self.built = True

    def call(self, features: tf.Tensor) -> tf.Tensor:
        """Standardizes `[B, F]` features of any float dtype to float32."""
        return (self.temper(features) - self.mean) * self.scale

    def temper(self, features: tf.Tensor) -> tf.Tensor:
        """The signed power of `[B, F]` features, float32."""
        features = tf.cast(features, tf.float32)
        if self.power == 1:
            return features
        features *= tf.convert_to_tensor(self.input_scale)
        size = tf.pow(tf.abs(features) + SMALL, self.power) - SMALL**self.power
        return tf.sign(features) * size

    @property
    def is_fitted(self) -> bool:
        """Whether there are statistics."""
        return bool(self.num_images.numpy())

    def fit(self, expectation: Expectation, num_images: int) -> None:
        """Sets the statistics.

        Args:
            expectation: The mean, `[F]` float64, of a function of features `[n, F]` over the
                training images.
            num_images: Their number.
        """
        if self.power != 1:
            self.input_scale.assign(self._inverse_lengths(expectation(np.square), np.mean))
        mean = expectation(self._temper_array)
        variance = expectation(lambda rows: np.square(self._temper_array(rows) - mean))
        self.mean.assign(mean)
        self.scale.assign(self._inverse_lengths(variance, np.sum))
        self.num_images.assign(num_images)

    def _temper_array(self, rows: np.ndarray) -> np.ndarray:
        return self.temper(tf.constant(rows, tf.float32)).numpy().astype(np.float64)

    def _inverse_lengths(self, squares: np.ndarray, reduce: Callable) -> np.ndarray:
        """`[F]`: `reduce(squares) ** -0.5` of each backbone; 1 where all its squares are 0."""
        parts = np.split(squares, np.cumsum(self.feature_dims)[:-1])
        totals = np.array([reduce(part, dtype=np.float64) for part in parts])
        return np.repeat(np.where(totals > 0, totals, 1.0) ** -0.5, self.feature_dims)

    def _add_statistic(self, shape: tuple[int, ...], initializer: str, name: str) -> keras.Variable:
        return self.add_weight(shape=shape, initializer=initializer, trainable=False, name=name)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        own = {"feature_dims": list(self.feature_dims), "power": self.power}
        return {**super().get_config(), **own}
