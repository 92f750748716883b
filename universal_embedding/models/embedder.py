"""The embedder: pictures in, unit vectors out. Everything between is part of it."""

import json

import keras
import tensorflow as tf

from universal_embedding.input.resizing import resize
from universal_embedding.models.backbones import from_json, to_json


@keras.saving.register_keras_serializable("universal_embedding")
class Embedder(keras.Model):
    """Resize -> backbone -> dropout -> Dense(dimension) -> L2 norm.

    Called on `images [B, H, W, 3]`, 0..255, any size and numeric dtype; gives `[B, dimension]`
    float32 with unit rows (a row of zeros where the projection is exactly zero).

    Args:
        backbone: Maps `[B, S, S, 3]` float32 in 0..255 to `[B, F]`, normalisation included.
        dimension: Size of the embedding; None leaves the projection out (F dimensions).
        image_size: S, in pixels; pictures of another size are resized.
        aspect: `squash`, `crop` or `pad`; see `input.resizing.resize`.
        dropout: Rate on the features while training.
    """

    def __init__(
        self,
        backbone: keras.Model,
        dimension: int | None = 64,
        image_size: int = 224,
        aspect: str = "squash",
        dropout: float = 0.0,
        **kwargs: object,
    ) -> None:
        super().__init__(**kwargs)
        self.backbone = backbone
        self.dimension = dimension
        self.image_size = image_size
        self.aspect = aspect
        self.dropout = keras.layers.Dropout(dropout)
        self.projection = (
            keras.layers.Dense(dimension, use_bias=False, name="projection") if dimension else None
        )
        self.build((None, image_size, image_size, 3))

    @property
    def output_dimension(self) -> int:
        """D: the `dimension`, or the backbone's F where there is no projection."""
        return self.dimension or self.backbone.output_shape[-1]

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Builds the projection for the backbone's feature size."""
        if self.projection is not None and not self.projection.built:
            self.projection.build((None, self.backbone.output_shape[-1]))
        self.built = True

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Embeds a batch; see the class."""
        return self.embed_features(self.features(images, training), training)

    def features(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The backbone's `[B, F]` features of `images`."""
        size = self.image_size
        if images.shape[1:3] != (size, size):
            images = resize(images, size, self.aspect)
        return self.backbone(tf.cast(images, tf.float32), training=training)

    def embed_features(self, features: tf.Tensor, training: bool = False) -> tf.Tensor:
        """`[B, F]` features -> `[B, dimension]` float32 unit rows."""
        outputs = self.dropout(features, training=training)
        if self.projection is not None:
            outputs = self.projection(outputs)
        outputs = tf.cast(outputs, tf.float32)
        # l2_normalize gives up below a length of 1e-6; of any scale, the unit row is the same
        scale = tf.stop_gradient(tf.reduce_max(tf.abs(outputs), axis=-1, keepdims=True))
        return tf.math.l2_normalize(tf.math.divide_no_nan(outputs, scale), axis=-1)

    def get_config(self) -> dict:
        """Arguments of the constructor, for Keras."""
        return {
            **super().get_config(),
            "backbone": json.loads(to_json(self.backbone)),
            "dimension": self.dimension,
            "image_size": self.image_size,
            "aspect": self.aspect,
            "dropout": self.dropout.rate,
        }

    @classmethod
    def from_config(cls, config: dict) -> "Embedder":
        """Rebuilds an embedder, with fresh weights, from `get_config`."""
        config = dict(config)
        backbone = from_json(json.dumps(config.pop("backbone")))
        return cls(backbone, **config)
