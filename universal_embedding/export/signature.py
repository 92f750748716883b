"""Opening a SavedModel as Kaggle's scorer does, with the scorer's demands checked."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf

from universal_embedding.errors import UserError
from universal_embedding.export.saved_model import DEFAULT, UNIT

REMEDY = "write it with tools/export.py"


def read(directory: Path, origin: Path) -> Any:
    """The SavedModel in `directory`; errors speak of `origin`.

    Raises:
        UserError: There is none, or it cannot be loaded.
    """
    if not (directory / "saved_model.pb").is_file():
        raise UserError(f"{origin} holds no saved_model.pb: {REMEDY}")
    try:
        return tf.saved_model.load(str(directory))
    except (OSError, ValueError, tf.errors.OpError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{origin} is not a SavedModel that loads ({reason}): {REMEDY}") from error


def default(model: Any, origin: Path) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """The `serving_default` signature: one uint8 `[B, H, W, 3]` -> `embedding_norm` `[B, D]`.

    Raises:
        UserError: It is missing, or takes or gives something else.
    """
    signature = model.signatures.get(DEFAULT)
    if signature is None:
        names = ", ".join(model.signatures) or "none"
        raise UserError(f"{origin} has no signature {DEFAULT!r} (it has {names}): {REMEDY}")
    inputs = list(signature.structured_input_signature[1].values())
    wanted = tf.TensorSpec([1, None, None, 3], tf.uint8)
    if len(inputs) != 1 or inputs[0].dtype != tf.uint8 or not _takes(inputs[0].shape):
        raise UserError(f"{origin}: {DEFAULT!r} takes {inputs}, not one {wanted}: {REMEDY}")
    output = signature.structured_outputs.get(UNIT)
    if output is None:
        names = ", ".join(signature.structured_outputs)
        raise UserError(f"{origin}: {DEFAULT!r} gives {names}, not {UNIT!r}: {REMEDY}")
    if output.dtype != tf.float32 or not output.shape.is_compatible_with([1, None]):
        raise UserError(f"{origin}: {UNIT!r} is {output}, not float32 [B, D]: {REMEDY}")
    return signature


def _takes(shape: tf.TensorShape) -> bool:
    """Whether pictures of two sizes fit."""
    return all(shape.is_compatible_with([1, side, side + 1, 3]) for side in (3, 5))
