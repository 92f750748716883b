"""The layers around a pretrained network: input normalization and pooling of its features."""

from typing import Any

import keras
from keras import ops

from universal_embedding.errors import UserError

POOLING_METHODS = ("token", "mean", "gem")


@keras.saving.register_keras_serializable("universal_embedding")
class Normalize(keras.layers.Layer):
    """Maps 0..255 to the range a network was trained on: `x * scale + offset` per channel.

    Unlike `keras.layers.Normalization` it computes in float32 under any dtype policy and can
    reverse the channels.

    Args:
        scale: Three numbers, in the channel order of the result.
        offset: Three numbers, in the channel order of the result.
        bgr: Whether the network expects blue first; the channels are then reversed.
    """

    def __init__(
        self, scale: list[float], offset: list[float], bgr: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.scale, self.offset, self.bgr = list(scale), list(offset), bgr

    def call(self, images: keras.KerasTensor) -> keras.KerasTensor:
        """Normalizes `[B, H, W, 3]` in 0..255."""
        images = ops.flip(images, axis=-1) if self.bgr else images
        return images * ops.array(self.scale, "float32") + ops.array(self.offset, "float32")

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        config = {"scale": self.scale, "offset": self.offset, "bgr": self.bgr}
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable("universal_embedding")
class Pooling(keras.layers.Layer):
    """Pools `[B, H, W, F]` or `[B, N, F]` to `[B, F]`.

    Args:
        method: `token` takes the first token of the sequence (the class token); `mean` the mean
            over positions; `gem` the generalized mean `mean(max(x, epsilon) ** p) ** (1 / p)` with
            a learned p (arXiv 1711.02512).
        num_prefix_tokens: Number of tokens at the start of a sequence that are not image positions
            (class token, registers); `mean` and `gem` leave them out.
        p: Initial exponent of `gem`.
    """

    def __init__(
        self, method: str, num_prefix_tokens: int = 0, p: float = 3.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.method, self.num_prefix_tokens, self.initial_p = method, num_prefix_tokens, p

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
        """Pools the features; means are taken in float32."""
        if self.method == "token":
            return features[:, 0]
        x = ops.cast(features[:, self.num_prefix_tokens :], "float32")
        positions = tuple(range(1, len(x.shape) - 1))
        if self.method == "gem":
            x = ops.power(ops.maximum(x, 1e-6), self.p)
        x = ops.mean(x, axis=positions)
        if self.method == "gem":
            x = ops.power(x, 1 / self.p)
        return ops.cast(x, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        config = {
            "method": self.method,
            "num_prefix_tokens": self.num_prefix_tokens,
            "p": self.initial_p,
        }
        return {**super().get_config(), **config}


def pool(
    features: keras.KerasTensor, method: str | None, num_prefix_tokens: int, spec: str
) -> keras.KerasTensor:
    """Pools `features` by `method`; None is the class token where there is one, else the mean.

    Raises:
        UserError: `method` is unknown, or does not fit the features of the backbone `spec`.
    """
    rank = len(features.shape)
    method = method or ("token" if num_prefix_tokens else "mean")
    choices = POOLING_METHODS if num_prefix_tokens else POOLING_METHODS[1:]
    if rank == 2 or method not in choices:
        has = "one vector per image: leave pooling out" if rank == 2 else f"{choices}"
        raise UserError(f"pooling is {method!r}; backbone {spec!r} has {has}")
    return Pooling(method, num_prefix_tokens, name="pooling")(features)
