"""An embedder as one SavedModel: pictures in, vectors out, no Python of this package needed."""

from pathlib import Path

import keras
import tensorflow as tf

from universal_embedding.errors import UserError
from universal_embedding.export import compatibility
from universal_embedding.input.resizing import resize
from universal_embedding.models.backbones.architecture import rebuild
from universal_embedding.models.embedder import Embedder

DEFAULT = "serving_default"
ENCODED = "serving_encoded"
RAW, UNIT = "embedding", "embedding_norm"


class ServingModule(tf.Module):
    """What is saved: two signatures and the weights they read.

    `serving_default` takes `images` uint8 `[B, H, W, 3]` (RGB, any H and W), `serving_encoded`
    takes `encoded` string `[B]` (JPEG, PNG, GIF or BMP files of any sizes). Both give `embedding`,
    the projection's output, and `embedding_norm`, its rows scaled to length one; `[B, D]` float32.

    Args:
        embedder: The trained embedder.
        float16: Keep kernels in float16; they are cast to float32 at each call. Vectors
            (biases, norms, moving statistics) and kernels beyond float16's range stay float32.
    """

    def __init__(self, embedder: Embedder, float16: bool = False) -> None:
        super().__init__()
        # Copies, with names of their own: a Keras layer saved with the module would bring objects
        # that an older TensorFlow cannot rebuild, and names that no SavedModel may have.
        weights = embedder.weights
        self.weights = [_stored(w.value, i, float16) for i, w in enumerate(weights)]

        def embed(images: tf.Tensor) -> dict[str, tf.Tensor]:
            values = [tf.cast(s, w.dtype) for s, w in zip(self.weights, weights, strict=True)]
            with keras.StatelessScope(state_mapping=list(zip(weights, values, strict=True))):
                return _outputs(embedder, _resized(images, embedder))

        def square(encoded: tf.Tensor) -> tf.Tensor:
            picture = tf.io.decode_image(encoded, channels=3, expand_animations=False)
            return resize(picture, embedder.image_size, embedder.aspect)

        def embed_encoded(encoded: tf.Tensor) -> dict[str, tf.Tensor]:
            side = embedder.image_size
            spec = tf.TensorSpec([side, side, 3], tf.float32)
            return embed(tf.map_fn(square, encoded, fn_output_signature=spec))

        images = tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")
        encoded = tf.TensorSpec([None], tf.string, name="encoded")
        self.embed = tf.function(embed, input_signature=[images])
        self.embed_encoded = tf.function(embed_encoded, input_signature=[encoded])


def save(embedder: Embedder, directory: str | Path, float16: bool = False) -> None:
    """Writes `embedder` as a SavedModel that TensorFlow 2.6.4 and later load.

    Args:
        embedder: The trained embedder.
        directory: Where to write; must not hold anything yet.
        float16: See `ServingModule`.

    Raises:
        UserError: `directory` is in use.
    """
    directory = Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"{directory} already exists: remove it or name another directory")
    module = ServingModule(in_float32(embedder), float16)
    signatures = {DEFAULT: module.embed, ENCODED: module.embed_encoded}
    tf.saved_model.save(module, str(directory), signatures=signatures)
    compatibility.remedy(directory)


def in_float32(embedder: Embedder) -> Embedder:
    """The embedder itself, or a copy that computes in float32 if it was trained in less.

    TensorFlow 2.6.4 lacks bfloat16 on a CPU, and embeddings should not depend on the device.
    """
    layers = [layer for layer in embedder._flatten_layers() if not isinstance(layer, keras.Model)]
    if all(layer.compute_dtype == "float32" for layer in layers):
        return embedder
    config = embedder.get_config()
    copy = Embedder(
        rebuild(embedder.backbone, dtype="float32"),
        **{key: config[key] for key in ("dimension", "image_size", "aspect")},
        dtype="float32",
    )
    if copy.projection is not None:
        copy.projection.set_weights(embedder.projection.get_weights())
    return copy


def _resized(images: tf.Tensor, embedder: Embedder) -> tf.Tensor:
    """`[B, S, S, 3]` float32; resizing gives a picture of that size back, so it is spared."""
    side = embedder.image_size
    images = tf.cond(
        tf.reduce_all(tf.shape(images)[1:3] == side),
        lambda: tf.cast(images, tf.float32),
        lambda: resize(images, side, embedder.aspect),
    )
    return tf.ensure_shape(images, [None, side, side, 3])


def _outputs(embedder: Embedder, images: tf.Tensor) -> dict[str, tf.Tensor]:
    features = embedder.features(images)
    raw = features if embedder.projection is None else embedder.projection(features)
    # embed_features repeats the projection; the graph optimizer merges the two.
    return {RAW: tf.cast(raw, tf.float32), UNIT: embedder.embed_features(features)}


def _stored(weight: tf.Variable, number: int, float16: bool) -> tf.Variable:
    value = tf.convert_to_tensor(weight)
    kernel = value.dtype == tf.float32 and value.shape.rank >= 2
    if float16 and kernel and tf.reduce_max(tf.abs(value)) <= tf.float16.max:
        value = tf.cast(value, tf.float16)
    return tf.Variable(value, trainable=False, name=f"weight_{number}")
