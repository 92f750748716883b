"""SavedModels of embedding models: images in, vectors out, without the Python of this package."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from universal_embedding.errors import UserError
from universal_embedding.files import atomic_directory
from universal_embedding.input.resizing import resize
from universal_embedding.models.backbones import rebuild
from universal_embedding.models.embedding_model import EmbeddingModel
from universal_embedding.models.graph_check import check_graph
from universal_embedding.private_apis import flatten_layers

SERVING_DEFAULT = "serving_default"
SERVING_ENCODED = "serving_encoded"
RAW_OUTPUT, UNIT_OUTPUT = "embedding", "embedding_norm"

Signature = Callable[[tf.Tensor], dict[str, tf.Tensor]]
_REMEDY = "write it with `universal-embedding export`"


class ServingModule(tf.Module):
    """The object that is saved: two signatures and the weights they read.

    `serving_default` takes `images` uint8 `[B, H, W, 3]` (RGB, any H and W), `serving_encoded`
    takes `encoded` string `[B]` (JPEG, PNG, GIF or BMP files of any sizes, without transparency).
    Both return `embedding`, the output of the projection, and `embedding_norm`, its rows scaled to
    unit length; `[B, D]` float32.

    Args:
        model: The trained model.
        float16: Store kernels in float16; each call casts them to float32. Vectors (biases,
            norms, moving statistics) and kernels beyond the range of float16 stay float32.

    Attributes:
        image_size: Side of the model's input in pixels, int64 scalar; kept in the SavedModel.
    """

    def __init__(self, model: EmbeddingModel, float16: bool = False) -> None:
        super().__init__()
        self.image_size = tf.Variable(
            model.image_size, dtype=tf.int64, trainable=False, name="image_size"
        )
        # Copies under new names: a Keras layer saved with the module would bring along objects
        # that an older TensorFlow cannot rebuild, and names that are invalid in a SavedModel.
        weights = model.weights
        self.weights = [_stored(w.value, i, float16) for i, w in enumerate(weights)]

        def stored_weights() -> keras.StatelessScope:
            values = [tf.cast(s, w.dtype) for s, w in zip(self.weights, weights, strict=True)]
            return keras.StatelessScope(state_mapping=list(zip(weights, values, strict=True)))

        self.embed, self.embed_encoded = make_signatures(model, stored_weights)


def make_signatures(
    model: EmbeddingModel,
    weight_scope: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
) -> tuple[Signature, Signature]:
    """The two compiled functions of a `ServingModule`.

    Args:
        model: The model to call.
        weight_scope: Returns a context in which the model reads its weights.

    Returns:
        Functions of uint8 images `[B, H, W, 3]` and of encoded images, string `[B]`.
    """
    side = model.image_size

    def embed(images: tf.Tensor) -> dict[str, tf.Tensor]:
        with weight_scope():
            return _outputs(model, _resize_batch(images, model))

    def decode_and_resize(encoded: tf.Tensor) -> tf.Tensor:
        image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
        return resize(image, side, model.resize_mode)

    def embed_encoded(encoded: tf.Tensor) -> dict[str, tf.Tensor]:
        spec = tf.TensorSpec([side, side, 3], tf.float32)
        return embed(tf.map_fn(decode_and_resize, encoded, fn_output_signature=spec))

    images = tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")
    encoded = tf.TensorSpec([None], tf.string, name="encoded")
    return (
        tf.function(embed, input_signature=[images]),
        tf.function(embed_encoded, input_signature=[encoded]),
    )


def save_model(model: EmbeddingModel, directory: str | Path, float16: bool = False) -> None:
    """Writes `model` as a SavedModel that TensorFlow 2.6.4 and later load.

    Args:
        model: The trained model.
        directory: Directory to write; missing or empty.
        float16: See `ServingModule`.

    Raises:
        UserError: `directory` is in use.
    """
    directory = Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"{directory} already exists: remove it or name another directory")
    module = ServingModule(to_float32(model), float16)
    signatures = {SERVING_DEFAULT: module.embed, SERVING_ENCODED: module.embed_encoded}
    with atomic_directory(directory) as partial:
        tf.saved_model.save(module, str(partial), signatures=signatures)
        replace_unsupported_ops(partial)


def to_float32(model: EmbeddingModel) -> EmbeddingModel:
    """Returns `model` itself, or a float32 copy if it computes in a lower precision.

    TensorFlow 2.6.4 lacks bfloat16 on CPUs, and embeddings should not depend on the device.
    """
    layers = [layer for layer in flatten_layers(model) if not isinstance(layer, keras.Model)]
    if all(layer.compute_dtype == "float32" for layer in layers):
        return model
    copy = EmbeddingModel(
        rebuild(model.backbone, dtype="float32"),
        model.embedding_dim,
        image_size=model.image_size,
        resize_mode=model.resize_mode,
        projection_bias=model.projection_bias,
        standardize=model.standardization is not None,
        feature_power=model.feature_power,
        dtype="float32",
    )
    for layer, trained in (
        (copy.projection, model.projection),
        (copy.standardization, model.standardization),
    ):
        if layer is not None and trained is not None:
            layer.set_weights(trained.get_weights())
    return copy


def replace_unsupported_ops(directory: str | Path) -> int:
    """Replaces each op that TensorFlow 2.6.4 lacks, and that never runs, by a `NoOp`, in place.

    `DisableCopyOnRead` occurs only in the function that writes checkpoints, so embeddings cannot
    change. The node itself must stay, because others depend on its name.

    Returns:
        The number of nodes changed.
    """
    path = Path(directory) / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    num_changed = 0
    for meta in saved.meta_graphs:
        graph = meta.graph_def
        for nodes in (graph.node, *(function.node_def for function in graph.library.function)):
            for node in nodes:
                if node.op == "DisableCopyOnRead":
                    node.op = "NoOp"
                    node.input[:] = [name for name in node.input if name.startswith("^")]
                    node.attr.clear()
                    num_changed += 1
    path.write_bytes(saved.SerializeToString(deterministic=True))
    return num_changed


def load_saved_model(directory: Path, source_path: str | Path) -> Any:
    """Loads the SavedModel in `directory`, as Kaggle's scorer does, after checking its graph.

    Args:
        directory: A SavedModel directory.
        source_path: The path that errors name, such as the zip that was extracted.

    Raises:
        UserError: There is none, it cannot be loaded, or its graph could do more than embed.
    """
    if not (directory / "saved_model.pb").is_file():
        raise UserError(f"{source_path} has no saved_model.pb: {_REMEDY}")
    check_graph(directory, source_path)
    try:
        return tf.saved_model.load(str(directory))
    except Exception as error:  # damaged files cause errors of every kind
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{source_path} cannot be loaded as a SavedModel ({reason}): {_REMEDY}"
        ) from error


def serving_signature(model: Any, source_path: str | Path) -> Any:
    """The `serving_default` signature: one uint8 `[B, H, W, 3]` -> `embedding_norm` `[B, D]`.

    Args:
        model: A loaded SavedModel.
        source_path: The path that errors name.

    Raises:
        UserError: It is missing, or has other inputs or outputs.
    """
    signature = model.signatures.get(SERVING_DEFAULT)
    if signature is None:
        names = ", ".join(model.signatures) or "none"
        raise UserError(
            f"{source_path} has no signature {SERVING_DEFAULT!r} (it has {names}): {_REMEDY}"
        )
    prefix = f"{source_path}: {SERVING_DEFAULT!r}"
    inputs = list(signature.structured_input_signature[1].values())
    if len(inputs) != 1 or inputs[0].dtype != tf.uint8 or not _accepts_any_size(inputs[0].shape):
        expected = tf.TensorSpec([1, None, None, 3], tf.uint8)
        raise UserError(f"{prefix} takes {inputs}, not one {expected}: {_REMEDY}")
    output = signature.structured_outputs.get(UNIT_OUTPUT)
    if output is None:
        names = ", ".join(signature.structured_outputs)
        raise UserError(f"{prefix} returns {names}, not {UNIT_OUTPUT!r}: {_REMEDY}")
    if output.dtype != tf.float32 or not output.shape.is_compatible_with([1, None]):
        raise UserError(
            f"{source_path}: {UNIT_OUTPUT!r} is {output}, not float32 [B, D]: {_REMEDY}"
        )
    return signature


def _accepts_any_size(shape: tf.TensorShape) -> bool:
    return all(shape.is_compatible_with([1, side, side + 1, 3]) for side in (3, 5))


def _resize_batch(images: tf.Tensor, model: EmbeddingModel) -> tf.Tensor:
    """`[B, S, S, 3]` float32; resizing to the same size is the identity, so it is skipped."""
    side = model.image_size
    images = tf.cond(
        tf.reduce_all(tf.shape(images)[1:3] == side),
        lambda: tf.cast(images, tf.float32),
        lambda: resize(images, side, model.resize_mode),
    )
    return tf.ensure_shape(images, [None, side, side, 3])


def _outputs(model: EmbeddingModel, images: tf.Tensor) -> dict[str, tf.Tensor]:
    features = model.features(images)
    raw = model.project(features)
    # embed_features repeats the projection; the graph optimizer merges the two.
    return {RAW_OUTPUT: tf.cast(raw, tf.float32), UNIT_OUTPUT: model.embed_features(features)}


def _stored(weight: tf.Variable, index: int, float16: bool) -> tf.Variable:
    value = tf.convert_to_tensor(weight)
    is_kernel = value.dtype == tf.float32 and value.shape.rank >= 2
    if float16 and is_kernel and tf.reduce_max(tf.abs(value)) <= tf.float16.max:
        value = tf.cast(value, tf.float16)
    return tf.Variable(value, trainable=False, name=f"weight_{index}")
