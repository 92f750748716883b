"""Loads backbones by name: a file, a preset or an application."""

import contextlib
import difflib
import gc
from pathlib import Path

import keras
import tensorflow as tf

from universal_embedding.errors import UserError
from universal_embedding.files import fetch, is_remote
from universal_embedding.models.backbones.applications import list_applications, load_application
from universal_embedding.models.backbones.architecture import has_position_tables, rebuild
from universal_embedding.models.backbones.fusion import FusedBackbone, split_size, split_spec
from universal_embedding.models.backbones.layers import pool
from universal_embedding.models.backbones.presets import list_presets, load_preset

_KERAS_SUFFIXES = (".keras", ".h5")


def list_backbones() -> list[str]:
    """Lists every name that `load_backbone` takes; it also takes files and preset handles.

    Returns:
        `small`, the models of `keras.applications`, and the presets of KerasHub.
    """
    return ["small", *list_applications(), *list_presets()]


def load_backbone(
    spec: str,
    image_size: int = 224,
    *,
    pooling: str | None = None,
    dtype: str | keras.DTypePolicy | None = None,
    remat: bool = False,
    pretrained: bool = True,
    keep_positions: bool = False,
    strategy: tf.distribute.Strategy | None = None,
) -> keras.Model:
    """Loads a backbone with its pretrained weights.

    The model is self-contained: `architecture.to_json` and its weights rebuild it without `spec`.

    Args:
        spec: One of
            `small`: the package's own small network, untrained;
            a Keras file (`*.keras`, `*.h5`) of any model from images to features;
            a model of `keras.applications` (`EfficientNetV2B0`);
            a preset of KerasHub by name (`siglip2_base_patch16_224`), handle (`hf://...`,
            `kaggle://...`) or directory written by `save_to_preset` (`./my_clip`);
            several of these, `a.keras+b.keras@288`, whose features are joined: a `FusedBackbone`.
            Each resizes the images to the size it was made for, or to the size after its @.
            For vision-language presets only the vision tower is used. Files may be on gs://.
        image_size: S, the side of the images in pixels. Position embeddings learned for another
            size are interpolated.
        pooling: `token` (class token), `mean` or `gem` over positions, or `projection` (the
            family's own projection into the space shared with text); None is the backbone's own
            default: its class token, its attention pooling, or the mean.
        dtype: Keras dtype policy; None is the global one.
        remat: Whether to recompute the activations of each block in the backward pass instead of
            keeping them (gradient checkpointing; transformers only).
        pretrained: Whether to load the pretrained weights of a preset or application; otherwise
            they are random.
        keep_positions: Whether position embeddings keep the size they were learned for. The result
            then takes images of that size, and `resize_backbone` makes it take others.
        strategy: Where the weights are created; None is the current scope. The pretrained model,
            with a text tower if it has one, is loaded once, in the memory of the host.

    Returns:
        A model `[B, S, S, 3]` float32 in 0..255 -> `[B, F]`, input normalization included.

    Raises:
        UserError: `spec` cannot be found or downloaded, is not an image model, or does not support
            the other arguments.
    """
    specs = split_spec(spec)
    is_fused = len(specs) > 1
    towers, sizes = [], []
    for tower_spec in specs:
        name, size = split_size(tower_spec) if is_fused else (tower_spec, image_size)
        with tf.device("CPU:0"):
            native = _load_native(name, size or image_size, pooling, pretrained)
        sizes.append(size or native.input_shape[1])
        policy = dtype or keras.config.dtype_policy()
        towers.append(
            _fit_backbone(native, name, sizes[-1], policy, remat, keep_positions, strategy)
        )
        del native
        gc.collect()  # a text tower is held by reference cycles
    return FusedBackbone(towers, sizes, image_size) if is_fused else towers[0]


def is_hub_handle(spec: str) -> bool:
    """Whether `spec` names a preset on a hub that KerasHub downloads from."""
    return spec.startswith(("hf://", "kaggle://", "modelscope://"))


def load_keras_file(path: Path, image_size: int, pooling: str | None) -> keras.Model:
    """Loads a model file at its own image size (`image_size` if it takes any).

    A feature map or a sequence is pooled; a vector is not.

    Raises:
        UserError: The file does not exist, is not a Keras model, or does not map images to
            features.
    """
    if not path.is_file():
        raise UserError(f"backbone file {path} does not exist; pass the path of a Keras model file")
    try:
        model = keras.saving.load_model(path, compile=False)
    except Exception as error:
        raise UserError(
            f"backbone file {path} is not a Keras model that can be loaded ({error}); "
            "write it with Keras' model.save('name.keras')"
        ) from error
    takes, gives = getattr(model, "input_shape", None), getattr(model, "output_shape", None)
    if not isinstance(takes, tuple) or len(takes) != 4 or takes[-1] != 3:
        raise UserError(
            f"backbone file {path} takes {takes}; it must take one batch of images [B, S, S, 3]"
        )
    if not isinstance(gives, tuple) or len(gives) not in (2, 3, 4):
        raise UserError(
            f"backbone file {path} gives {gives}; it must give features "
            "[B, F], [B, N, F] or [B, H, W, F]"
        )
    size = takes[1] or image_size
    images = keras.Input((size, size, 3), name="image")
    features = model(images)
    if len(gives) != 2 or pooling:
        features = pool(features, pooling, 0, str(path))
    return keras.Model(images, features, name="backbone")


def _fit_backbone(
    native: keras.Model,
    spec: str,
    image_size: int,
    dtype: str | keras.DTypePolicy,
    remat: bool,
    keep_positions: bool,
    strategy: tf.distribute.Strategy | None,
) -> keras.Model:
    """Rebuilds `native` for another image size; see `load_backbone`."""
    size = image_size
    try:
        if keep_positions and has_position_tables(native, image_size):
            size = native.input_shape[1]
        with strategy.scope() if strategy else contextlib.nullcontext():
            return rebuild(native, size, dtype, remat)
    except (ValueError, TypeError) as error:
        raise UserError(
            f"backbone {spec!r}, made for images of {native.input_shape[1]} pixels, cannot be "
            f"rebuilt for image size {image_size}: {error}; choose another image size or backbone"
        ) from error


def _load_native(spec: str, image_size: int, pooling: str | None, pretrained: bool) -> keras.Model:
    """Loads `spec` at the image size it was made for."""
    if spec == "small":
        from universal_embedding.models.small_network import small_network

        return small_network(image_size)
    if is_remote(spec) and not is_hub_handle(spec):
        spec = str(fetch(spec))
    if Path(spec).suffix in _KERAS_SUFFIXES:
        return load_keras_file(Path(spec), image_size, pooling)
    if spec in list_applications():
        return load_application(spec, image_size, pooling, pretrained)
    if spec in list_presets() or is_hub_handle(spec) or (spec and Path(spec).is_dir()):
        return load_preset(spec, image_size, pooling, pretrained)
    nearest = difflib.get_close_matches(spec, [*list_presets(), *list_applications(), "small"])
    remedy = f"nearest names: {', '.join(nearest)}" if nearest else "check its name"
    raise UserError(
        f"backbone {spec!r} is not a Keras file (*.keras), a directory, a KerasHub preset or a "
        f"model of keras.applications; {remedy}"
    )
