"""From a map or sequence of features to one vector."""

import keras

from universal_embedding.errors import UserError


def pool(features: keras.KerasTensor, method: str | None) -> keras.KerasTensor:
    """Pools `[B, H, W, F]` or `[B, N, F]` to `[B, F]` by `mean` (the default) or `gem`."""
    if method in (None, "mean"):
        layer = {3: keras.layers.GlobalAveragePooling1D, 4: keras.layers.GlobalAveragePooling2D}
        return layer[len(features.shape)](name="mean_pooling")(features)
    if method == "gem":
        return GeneralizedMean(name="gem_pooling")(features)
    raise UserError(f"pooling is {method!r}; it must be 'mean' or 'gem'")


@keras.saving.register_keras_serializable("universal_embedding")
class GeneralizedMean(keras.layers.Layer):
    """GeM: `mean(max(x, epsilon) ** p) ** (1 / p)` over positions, p learned (arXiv 1711.02512)."""

    def __init__(self, p: float = 3.0, epsilon: float = 1e-6, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.initial_p, self.epsilon = p, epsilon

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates p."""
        constant = keras.initializers.Constant(self.initial_p)
        self.p = self.add_weight(shape=(), initializer=constant, name="p")

    def call(self, features: keras.KerasTensor) -> keras.KerasTensor:
        """Pools `[B, ..., F]` to `[B, F]`; powers are taken in float32."""
        positions = tuple(range(1, len(features.shape) - 1))
        p = keras.ops.cast(self.p, "float32")
        x = keras.ops.maximum(keras.ops.cast(features, "float32"), self.epsilon)
        pooled = keras.ops.power(keras.ops.mean(keras.ops.power(x, p), axis=positions), 1 / p)
        return keras.ops.cast(pooled, self.compute_dtype)

    def get_config(self) -> dict:
        """Arguments of the constructor."""
        return {**super().get_config(), "p": self.initial_p, "epsilon": self.epsilon}
