"""The embedding model: images in, unit vectors out; resizing and normalization are part of it."""

import json
from typing import Any

import keras
import tensorflow as tf

from universal_embedding.input.resizing import resize
from universal_embedding.models.backbones import from_json, resize_backbone, to_json


@keras.saving.register_keras_serializable("universal_embedding")
class EmbeddingModel(keras.Model):
    """Resize -> backbone -> Dense(embedding_dim) -> L2 norm.

    Maps `images [B, H, W, 3]` in 0..255, of any size and numeric dtype, to `[B, D]` float32 with
    unit rows (a row of zeros where the projection is exactly zero). Dropout on the features is
    applied by the training step, between `features` and `embed_features`.

    Args:
        backbone: Maps `[B, N, N, 3]` float32 in 0..255 to `[B, F]`, normalization included. Where N
            is not S, its position embeddings are interpolated at each call and stay those of N.
        embedding_dim: D, the size of the embedding; None leaves the projection out (D = F).
        image_size: S, in pixels; images of another size are resized.
        resize_mode: `squash`, `crop` or `pad`; see `input.resizing.resize`.
        projection_bias: Whether the projection has a bias. Features are then scaled to unit length
            before it, as in the code of UnED and UDON: a bias is relative to a length.

    Attributes:
        projection: The `Dense` layer, or None without `embedding_dim`.
    """

    def __init__(
        self,
        backbone: keras.Model,
        embedding_dim: int | None = 64,
        image_size: int = 224,
        resize_mode: str = "squash",
        projection_bias: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.backbone = backbone
        self.embedding_dim = embedding_dim
        self.image_size = image_size
        self.resize_mode = resize_mode
        self.projection_bias = projection_bias
        self.projection = (
            keras.layers.Dense(embedding_dim, use_bias=projection_bias, name="projection")
            if embedding_dim
            else None
        )
        resized_backbone = resize_backbone(backbone, image_size)
        # A function: Keras would save a model twice that is an attribute twice.
        self._call_backbone = lambda images, training: resized_backbone(images, training=training)
        self.build((None, image_size, image_size, 3))

    @property
    def output_dim(self) -> int:
        """D: `embedding_dim`, or the backbone's F without a projection."""
        return self.embedding_dim or self.backbone.output_shape[-1]

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Builds the projection for the backbone's feature size."""
        if self.projection is not None and not self.projection.built:
            self.projection.build((None, self.backbone.output_shape[-1]))
        self.built = True

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Embeds `[B, H, W, 3]` images as `[B, D]` float32 unit rows."""
        return self.embed_features(self.features(images, training))

    def features(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Computes the backbone's `[B, F]` features of `images`."""
        size = self.image_size
        if images.shape[1:3] != (size, size):
            images = resize(images, size, self.resize_mode)
        return self._call_backbone(tf.cast(images, tf.float32), training)

    def project(self, features: tf.Tensor) -> tf.Tensor:
        """Projects `[B, F]` features to `[B, D]`, of any length."""
        if self.projection is None:
            return features
        if self.projection_bias:
            features = tf.math.l2_normalize(tf.cast(features, tf.float32), axis=-1)
        return self.projection(features)

    def embed_features(self, features: tf.Tensor) -> tf.Tensor:
        """Projects `[B, F]` features to `[B, D]` float32 unit rows."""
        outputs = tf.cast(self.project(features), tf.float32)
        # l2_normalize fails below a length of 1e-6; the unit row does not depend on the scale.
        scale = tf.stop_gradient(tf.reduce_max(tf.abs(outputs), axis=-1, keepdims=True))
        return tf.math.l2_normalize(tf.math.divide_no_nan(outputs, scale), axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor, for Keras."""
        return {
            **super().get_config(),
            "backbone": json.loads(to_json(self.backbone)),
            "embedding_dim": self.embedding_dim,
            "image_size": self.image_size,
            "resize_mode": self.resize_mode,
            "projection_bias": self.projection_bias,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "EmbeddingModel":
        """Rebuilds a model, with fresh weights, from `get_config`."""
        config = dict(config)
        backbone = from_json(json.dumps(config.pop("backbone")))
        return cls(backbone, **config)
