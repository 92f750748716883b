"""Several backbones side by side, used as one: `a.keras+b.keras`."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from universal_embedding.errors import UserError
from universal_embedding.files import as_path
from universal_embedding.models.backbones.architecture import (
    interpolation_matrix,
    rebuild,
    resize_backbone,
)
from universal_embedding.models.backbones.keras_workarounds import patch_weight_saving

_SIZE = re.compile(r"@(\d+)$")


@keras.saving.register_keras_serializable("universal_embedding")
class FusedBackbone(keras.Model):
    """Maps images to the features of several backbones, joined.

    `[B, S, S, 3]` in 0..255 -> `[B, F_1 + F_2 + ...]`. Each backbone, called a tower, resizes the
    images to its own size and normalizes them in its own way. At another image size all towers
    change their sizes by the same factor.

    Args:
        towers: Backbones `[B, N, N, 3]` -> `[B, F_i]`.
        tower_sizes: The size of the images in each tower; see `resize_backbone` where it is not N.
        image_size: S in pixels.
    """

    def __init__(
        self,
        towers: Sequence[keras.Model],
        tower_sizes: Sequence[int],
        image_size: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.towers, self.tower_sizes = list(towers), list(tower_sizes)
        self.image_size = image_size
        patch_weight_saving(self)
        calls = [_tower_call(*pair) for pair in zip(self.towers, self.tower_sizes, strict=True)]
        # A function: Keras would save a model twice that is an attribute twice.
        self._call_tower = lambda i, images, training: calls[i](images, training)
        self.built = True

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """`(None, S, S, 3)`."""
        return (None, self.image_size, self.image_size, 3)

    @property
    def output_shape(self) -> tuple[int | None, ...]:
        """`(None, F)`."""
        return (None, sum(self.feature_dims))

    @property
    def feature_dims(self) -> list[int]:
        """The number of features of each tower."""
        return [tower.output_shape[-1] for tower in self.towers]

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Computes `[B, F]` of `[B, S, S, 3]`."""
        return _join([self.call_tower(i, images, training) for i in range(len(self.towers))])

    def call_tower(self, index: int, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Computes the features `[B, F_i]` of one tower."""
        return self._call_tower(index, images, training)

    def sizes_at(self, image_size: int) -> list[int]:
        """The sizes of the towers where the images have another size."""
        return [round(size * image_size / self.image_size) for size in self.tower_sizes]

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor, for Keras."""
        return {
            **super().get_config(),
            "towers": [keras.saving.serialize_keras_object(tower) for tower in self.towers],
            "tower_sizes": list(self.tower_sizes),
            "image_size": self.image_size,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "FusedBackbone":
        """Rebuilds a model, with fresh weights, from `get_config`."""
        config = dict(config)
        towers = [keras.saving.deserialize_keras_object(tower) for tower in config.pop("towers")]
        return cls(towers, **config)


def list_towers(backbone: keras.Model) -> list[keras.Model]:
    """The towers of a fused backbone; of another one, the backbone itself."""
    return list(backbone.towers) if isinstance(backbone, FusedBackbone) else [backbone]


def split_spec(spec: str) -> list[str]:
    """The backbones that `a+b` names; a file or folder with a `+` in its name is one backbone."""
    return [spec] if "+" not in spec or as_path(spec).exists() else spec.split("+")


def split_size(spec: str) -> tuple[str, int | None]:
    """The backbone and the image size of `a@224`; None where it has no size.

    Raises:
        UserError: the size is 0.
    """
    match = _SIZE.search(spec)
    if match is None or as_path(spec).exists():
        return spec, None
    if int(match[1]) < 1:
        raise UserError(f"backbone {spec!r} has an image size of 0: give pixels, such as @224")
    return spec[: match.start()], int(match[1])


@rebuild.register
def _(
    backbone: FusedBackbone,
    image_size: int | None = None,
    dtype: str | keras.DTypePolicy | None = None,
    remat: bool = False,
) -> FusedBackbone:
    size = image_size or backbone.image_size
    sizes = backbone.sizes_at(size)
    towers = [
        # Position embeddings keep the size for which they were learned.
        rebuild(tower, None if tower.input_shape[1] != old else new, dtype, remat)
        for tower, old, new in zip(backbone.towers, backbone.tower_sizes, sizes, strict=True)
    ]
    return FusedBackbone(towers, sizes, size)


@resize_backbone.register
def _(backbone: FusedBackbone, image_size: int) -> Callable[..., tf.Tensor]:
    if image_size == backbone.image_size:
        return backbone
    calls = [
        _tower_call(tower, size)
        for tower, size in zip(backbone.towers, backbone.sizes_at(image_size), strict=True)
    ]

    def call(images: tf.Tensor, training: bool = False) -> tf.Tensor:
        return _join([tower(images, training) for tower in calls])

    return call


def _tower_call(tower: keras.Model, size: int) -> Callable[[tf.Tensor, bool], tf.Tensor]:
    """A function of square images of any size: resizes them, and computes the tower's features."""
    resized = resize_backbone(tower, size)
    return lambda images, training: resized(_resize_square(images, size), training=training)


def _resize_square(images: tf.Tensor, size: int) -> tf.Tensor:
    """Resizes `[B, N, N, 3]` as `input.resizing.resize` does, by products with constant matrices.

    XLA, and with it a TPU, has no kernel for TensorFlow's antialiased resize.
    """
    side = images.shape[1]
    if side == size:
        return images
    matrix = tf.constant(interpolation_matrix(side, size, antialias=True, method="bilinear"))
    images = tf.einsum("im,bmnc->binc", matrix, tf.cast(images, tf.float32))
    images = tf.einsum("jn,bmnc->bmjc", matrix, images)
    return tf.clip_by_value(images, 0.0, 255.0)  # float32 rounding can exceed the range slightly


def _join(features: Sequence[tf.Tensor]) -> tf.Tensor:
    return tf.concat([tf.cast(part, features[0].dtype) for part in features], axis=-1)
