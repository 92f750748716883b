"""KerasHub's pretrained models, by preset name or directory: only what sees pictures is kept."""

import keras
from absl import logging

from universal_embedding.errors import UserError
from universal_embedding.models.backbones.families import FAMILIES, Family
from universal_embedding.models.backbones.normalization import Normalize
from universal_embedding.models.backbones.pooling import pool


def names() -> list[str]:
    """The built-in presets of every family in the table."""
    import keras_hub

    classes = [getattr(keras_hub.models, family, None) for family in FAMILIES]
    return sorted({name for found in classes if found for name in found.presets})


def load(spec: str, image_size: int, pooling: str | None, pretrained: bool) -> keras.Model:
    """The preset's features at the picture size it was made for (`image_size` if for any)."""
    import keras_hub

    try:
        model = keras_hub.models.Backbone.from_preset(spec, load_weights=pretrained)
    except Exception as error:
        raise UserError(
            f"backbone preset {spec!r} cannot be loaded ({_first_line(error)}); presets are "
            "fetched from Kaggle or Hugging Face: check the network and, for gated models, your "
            "credentials, or save_to_preset('name') where there is a network and give ./name"
        ) from error
    family = FAMILIES.get(type(model).__name__)
    if family is None:
        raise UserError(
            f"backbone preset {spec!r} is a {type(model).__name__}, not one of the models of "
            f"pictures that are supported: {', '.join(FAMILIES)}"
        )
    return _features(spec, model, family, image_size, pooling)


def _features(
    spec: str, model: keras.Model, family: Family, image_size: int, pooling: str | None
) -> keras.Model:
    """Normalisation -> tower -> pooling -> (norm -> projection), as one functional model."""
    tower = getattr(model, family.tower) if family.tower else model
    if family.sequence and pooling:
        tower = keras.Model(tower.input, getattr(tower, family.sequence).output, name=tower.name)
    size = keras.tree.flatten(tower.input)[0].shape[1] or image_size
    images = keras.Input((size, size, 3), name="image")
    normal = _normalization(spec, family)(images)
    named = isinstance(tower.input, dict)
    outputs = tower({next(iter(tower.input)): normal} if named else normal)
    if isinstance(outputs, dict):  # a pyramid: its last level
        outputs = list(outputs.values())[-1]
    if len(outputs.shape) == 2 and not pooling:
        return keras.Model(images, outputs, name="backbone")
    projected = pooling == "projection"
    if projected and not family.projection:
        raise UserError(f"pooling is 'projection', but backbone {spec!r} has no projection")
    prefix = 0
    if len(outputs.shape) == 3:
        patch = keras.tree.flatten(tower.patch_size)[0] if hasattr(tower, "patch_size") else 1
        prefix = outputs.shape[1] - (size // patch) ** 2
    outputs = pool(outputs, None if projected else pooling, prefix, spec)
    if family.norm and pooling in (None, "token", "projection"):
        outputs = getattr(model, family.norm)(outputs)
    if projected:
        outputs = getattr(model, family.projection)(outputs)
    return keras.Model(images, outputs, name="backbone")


def _normalization(spec: str, family: Family) -> Normalize:
    """What the preset's image converter does to colours; resizing is done before, antialiased."""
    import keras_hub

    try:
        converter = keras_hub.layers.ImageConverter.from_preset(spec)
        scale, offset = converter.scale, converter.offset
    except (FileNotFoundError, ValueError):
        mean, std = family.mean_std
        logging.info(
            "backbone %s brings no image converter: mean %s, std %s of its family", spec, mean, std
        )
        scale = [1 / (255 * s) for s in std]
        offset = [-m / s for m, s in zip(mean, std, strict=True)]
    return Normalize(_three(scale, 1.0), _three(offset, 0.0), name="normalize")


def _three(value: float | list[float] | None, default: float) -> list[float]:
    value = default if value is None else value
    return [float(x) for x in value] if hasattr(value, "__len__") else [float(value)] * 3


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
