"""The embedding model: images in, unit vectors out; resizing and normalization are part of it."""

import json
from typing import Any

import keras
import tensorflow as tf

from universal_embedding.errors import UserError
from universal_embedding.input.resizing import resize
from universal_embedding.models.backbones import (
    FusedBackbone,
    from_json,
    list_towers,
    resize_backbone,
    to_json,
)
from universal_embedding.models.standardization import Standardization


@keras.saving.register_keras_serializable("universal_embedding")
class EmbeddingModel(keras.Model):
    """Resize -> backbone (-> standardization) -> Dense(embedding_dim) -> L2 norm.

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
        standardize: Whether the backbone's features are standardized, by statistics that training
            fits; see `Standardization`.
        feature_power: The power of the features that are standardized.

    Attributes:
        standardization: The layer, or None.
        projection: The `Dense` layer, or None without `embedding_dim`.
    """

    def __init__(
        self,
        backbone: keras.Model,
        embedding_dim: int | None = 64,
        image_size: int = 224,
        resize_mode: str = "squash",
        projection_bias: bool = False,
        standardize: bool = False,
        feature_power: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.backbone = backbone
        self.embedding_dim = embedding_dim
        self.image_size = image_size
        self.resize_mode = resize_mode
        self.projection_bias = projection_bias
        feature_dims = [tower.output_shape[-1] for tower in list_towers(backbone)]
        self.feature_power = feature_power
        self.standardization = Standardization(feature_dims, feature_power) if standardize else None
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
        """Computes the `[B, F]` features of `images`, standardized if the model does."""
        images = self.resize(images)
        return self.standardize(self._call_backbone(images, training))

    def tower_features(self, index: int, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Computes the features of one of several joined backbones, not standardized.

        Args:
            index: The backbone's position; 0 where there is one.
            images: As of `call`.
            training: As of `call`.

        Returns:
            `[B, F_i]`.
        """
        images = self.resize(images)
        if isinstance(self.backbone, FusedBackbone):
            return self.backbone.call_tower(index, images, training)
        return self._call_backbone(images, training)

    def resize(self, images: tf.Tensor) -> tf.Tensor:
        """`[B, H, W, 3]` images of any numeric dtype as `[B, S, S, 3]` float32."""
        size = self.image_size
        if images.shape[1:3] != (size, size):
            images = resize(images, size, self.resize_mode)
        return tf.cast(images, tf.float32)

    def standardize(self, features: tf.Tensor) -> tf.Tensor:
        """Standardizes the backbone's `[B, F]` features, if the model does."""
        return features if self.standardization is None else self.standardization(features)

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

    def with_dimension(self, embedding_dim: int) -> "EmbeddingModel":
        """A model of the first dimensions of the embedding, scaled to unit length.

        It computes with this model's backbone; its projection is a copy of the first columns.

        Args:
            embedding_dim: From 1 to the dimensions of this model.

        Raises:
            UserError: There are not so many dimensions, or no projection.
        """
        if self.projection is None or not 1 <= embedding_dim <= self.output_dim:
            has = "no projection" if self.projection is None else f"{self.output_dim} dimensions"
            raise UserError(
                f"dimension={embedding_dim} is not a prefix of this model's embedding, which has "
                f"{has}; give a smaller number of a model with a projection"
            )
        model = EmbeddingModel(
            self.backbone,
            embedding_dim,
            self.image_size,
            self.resize_mode,
            self.projection_bias,
            self.standardization is not None,
            self.feature_power,
            dtype=self.dtype_policy,
        )
        columns = [weight[..., :embedding_dim] for weight in self.projection.get_weights()]
        if model.projection is not None:
            model.projection.set_weights(columns)
        if model.standardization is not None and self.standardization is not None:
            model.standardization.set_weights(self.standardization.get_weights())
        return model

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor, for Keras."""
        return {
            **super().get_config(),
            "backbone": json.loads(to_json(self.backbone)),
            "embedding_dim": self.embedding_dim,
            "image_size": self.image_size,
            "resize_mode": self.resize_mode,
            "projection_bias": self.projection_bias,
            "standardize": self.standardization is not None,
            "feature_power": self.feature_power,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "EmbeddingModel":
        """Rebuilds a model, with fresh weights, from `get_config`."""
        config = dict(config)
        backbone = from_json(json.dumps(config.pop("backbone")))
        return cls(backbone, **config)
