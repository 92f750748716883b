"""From a map or a sequence of features to one vector."""

import keras
from keras import ops

from universal_embedding.errors import UserError

METHODS = ("token", "mean", "gem")


@keras.saving.register_keras_serializable("universal_embedding")
class Pooling(keras.layers.Layer):
    """Pools `[B, H, W, F]` or `[B, N, F]` to `[B, F]`.

    Args:
        method: `token` takes the first of the sequence (the class token); `mean` the mean over
            positions; `gem` the generalised mean `mean(max(x, epsilon) ** p) ** (1 / p)` with a
            learned p (arXiv 1711.02512).
        prefix: Number of tokens at the start of a sequence that are no positions of the picture
            (class token, registers): `mean` and `gem` leave them out.
        p: Where the exponent of `gem` starts.
    """

    def __init__(self, method: str, prefix: int = 0, p: float = 3.0, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.method, self.prefix, self.initial_p = method, prefix, p

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates p."""
        if self.method == "gem":
            self.p = self.add_weight(
                shape=(),
                initializer=keras.initializers.Constant(self.initial_p),
                dtype="float32",
                autocast=False,
                name="p",
            )

    def call(self, features: keras.KerasTensor) -> keras.KerasTensor:
        """Pools; means are taken in float32."""
        if self.method == "token":
            return features[:, 0]
        x = ops.cast(features[:, self.prefix :], "float32")
        positions = tuple(range(1, len(x.shape) - 1))
        if self.method == "gem":
            x = ops.power(ops.maximum(x, 1e-6), self.p)
        x = ops.mean(x, axis=positions)
        if self.method == "gem":
            x = ops.power(x, 1 / self.p)
        return ops.cast(x, self.compute_dtype)

    def get_config(self) -> dict:
        """Arguments of the constructor."""
        config = {"method": self.method, "prefix": self.prefix, "p": self.initial_p}
        return {**super().get_config(), **config}


def pool(features: keras.KerasTensor, method: str | None, prefix: int, spec: str) -> object:
    """Pools by `method`; None is the class token where there is one, else the mean.

    Raises:
        UserError: `method` is unknown, or not one for the features that backbone `spec` gives.
    """
    rank = len(features.shape)
    method = method or ("token" if prefix else "mean")
    possible = METHODS if prefix else METHODS[1:]
    if rank == 2 or method not in possible:
        has = "one vector for each picture: leave pooling out" if rank == 2 else f"{possible}"
        raise UserError(f"pooling is {method!r}; backbone {spec!r} has {has}")
    return Pooling(method, prefix, name="pooling")(features)
