"""From what a person writes (`--backbone=...`) to a Keras model of features."""

import difflib
import gc
from pathlib import Path

import keras

from universal_embedding.errors import UserError
from universal_embedding.models.backbones import applications, keras_file, presets
from universal_embedding.models.backbones.architecture import rebuild


def load_backbone(
    spec: str,
    image_size: int = 224,
    *,
    pooling: str | None = None,
    dtype: str | keras.DTypePolicy | None = None,
    remat: bool = False,
    pretrained: bool = True,
) -> keras.Model:
    """Loads a backbone with its pretrained weights.

    The model stands alone: `architecture.to_json` and its weights rebuild it without `spec`.

    Args:
        spec: One of
            `small`: the package's own small network, untrained;
            a Keras file (`*.keras`, `*.h5`) of any model from pictures to features;
            a model of `keras.applications` (`EfficientNetV2B0`);
            a preset of KerasHub by name (`siglip2_base_patch16_224`), handle (`hf://...`,
            `kaggle://...`) or directory written by `save_to_preset` (`./my_clip`).
        image_size: S, the side of the pictures in pixels. Position embeddings learned for
            another size are resized.
        pooling: `token` (class token), `mean` or `gem` over positions, or `projection` (the
            family's own features projected into the space shared with text); None is the
            backbone's own default: its class token, its attention pooling, or the mean.
        dtype: Keras dtype policy; None is the global one.
        remat: Whether each block's activations are computed again in the backward pass instead
            of kept (gradient checkpointing; transformers only).
        pretrained: False leaves the weights of a preset or application at random values.

    Returns:
        A model `[B, S, S, 3]` float32 in 0..255 -> `[B, F]`, which normalises its input itself.

    Raises:
        UserError: `spec` cannot be found or fetched, is no model of pictures, or does not take
            the other arguments.
    """
    native = _load(spec, image_size, pooling, pretrained)
    try:
        backbone = rebuild(native, image_size, dtype or keras.config.dtype_policy(), remat)
    except (ValueError, TypeError) as error:
        raise UserError(
            f"backbone {spec!r}, made for pictures of {native.input_shape[1]} pixels, cannot be "
            f"rebuilt for image size {image_size}: {error}"
        ) from error
    del native
    gc.collect()  # a text tower hangs on it in cycles
    return backbone


def _load(spec: str, image_size: int, pooling: str | None, pretrained: bool) -> keras.Model:
    if spec == "small":
        from universal_embedding.models.small_network import small_network

        return small_network(image_size)
    if Path(spec).suffix in (".keras", ".h5"):
        return keras_file.load(Path(spec), image_size, pooling)
    if spec in applications.names():
        return applications.load(spec, image_size, pooling, pretrained)
    known = presets.names()
    if spec in known or "://" in spec or (spec and Path(spec).is_dir()):
        return presets.load(spec, image_size, pooling, pretrained)
    near = difflib.get_close_matches(spec, [*known, *applications.names(), "small"])
    raise UserError(
        f"backbone {spec!r} is no Keras file (*.keras), directory, preset of KerasHub or model of "
        f"keras.applications; {'nearest names: ' + ', '.join(near) if near else 'check its name'}"
    )
