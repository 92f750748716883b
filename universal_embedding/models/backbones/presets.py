"""KerasHub's pretrained models, by preset name or directory; only the vision tower is kept."""

from dataclasses import dataclass

import keras
import numpy as np
from absl import logging

from universal_embedding.errors import UserError
from universal_embedding.models.backbones.layers import Normalize, pool

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclass(frozen=True)
class PresetFamily:
    """Places of the image features in a KerasHub class; names are attributes of that class.

    Attributes:
        mean_std: Normalization of 0..1, used where a preset has none of its own.
        tower: The vision model inside a vision-language model.
        sequence: The layer of the tower whose output is a sequence, where the tower itself ends in
            one vector.
        norm: A layer that follows the class token.
        projection: The layer from there into the space shared with text.
    """

    mean_std: tuple[tuple[float, ...], tuple[float, ...]] = _IMAGENET
    tower: str | None = None
    sequence: str | None = None
    norm: str | None = None
    projection: str | None = None


PRESET_FAMILIES = {
    "CLIPBackbone": PresetFamily(_CLIP, tower="vision_encoder", projection="vision_projection"),
    "CLIPVisionEncoder": PresetFamily(_CLIP),
    "MetaCLIP2Backbone": PresetFamily(
        _CLIP,
        tower="vision_encoder",
        norm="vision_post_layer_norm",
        projection="vision_projection",
    ),
    "MetaCLIP2VisionEncoder": PresetFamily(_CLIP),
    "SigLIPBackbone": PresetFamily(_HALF, tower="vision_encoder", sequence="post_layer_norm"),
    "SigLIPVisionEncoder": PresetFamily(_HALF, sequence="post_layer_norm"),
    "ViTBackbone": PresetFamily(_HALF),
    "DeiTBackbone": PresetFamily(),
    "DINOV2Backbone": PresetFamily(),
    "DINOV3Backbone": PresetFamily(),
    "CSPNetBackbone": PresetFamily(),
    "DenseNetBackbone": PresetFamily(),
    "EfficientNetBackbone": PresetFamily(),
    "HGNetV2Backbone": PresetFamily(),
    "MiTBackbone": PresetFamily(),
    "MobileNetBackbone": PresetFamily(),
    "MobileNetV5Backbone": PresetFamily(),
    "ResNetBackbone": PresetFamily(),
    "SwinTransformerBackbone": PresetFamily(),
    "VGGBackbone": PresetFamily(),
    "XceptionBackbone": PresetFamily(),
}


def list_presets() -> list[str]:
    """Lists the built-in presets of all supported families."""
    import keras_hub

    classes = [getattr(keras_hub.models, family, None) for family in PRESET_FAMILIES]
    return sorted({name for cls in classes if cls for name in cls.presets})


def load_preset(spec: str, image_size: int, pooling: str | None, pretrained: bool) -> keras.Model:
    """Loads a preset at its own image size (`image_size` if it takes any).

    Raises:
        UserError: The preset cannot be fetched, is not a supported image model, or does not have
            this pooling.
    """
    import keras_hub

    try:
        model = keras_hub.models.Backbone.from_preset(spec, load_weights=pretrained)
    except Exception as error:
        raise UserError(
            f"backbone preset {spec!r} cannot be loaded ({_first_line(error)}); presets are "
            "downloaded from Kaggle or Hugging Face: check the network and, for gated models, your "
            "credentials, or call save_to_preset('name') where there is a network and pass ./name"
        ) from error
    family = PRESET_FAMILIES.get(type(model).__name__)
    if family is None:
        raise UserError(
            f"backbone preset {spec!r} is a {type(model).__name__}, not one of the supported "
            f"image models: {', '.join(PRESET_FAMILIES)}"
        )
    return _feature_model(spec, model, family, image_size, pooling)


def _feature_model(
    spec: str, model: keras.Model, family: PresetFamily, image_size: int, pooling: str | None
) -> keras.Model:
    """Normalization -> tower -> pooling -> (norm -> projection), as one functional model."""
    tower = getattr(model, family.tower) if family.tower else model
    if family.sequence and pooling:
        tower = keras.Model(tower.input, getattr(tower, family.sequence).output, name=tower.name)
    size = keras.tree.flatten(tower.input)[0].shape[1] or image_size
    images = keras.Input((size, size, 3), name="image")
    inputs = _normalization(spec, family)(images)
    outputs = tower({next(iter(tower.input)): inputs} if isinstance(tower.input, dict) else inputs)
    if isinstance(outputs, dict):  # a feature pyramid: its last level
        outputs = list(outputs.values())[-1]
    if len(outputs.shape) == 2 and not pooling:
        return keras.Model(images, outputs, name="backbone")
    projection = family.projection if pooling == "projection" else None
    if pooling == "projection" and not projection:
        raise UserError(
            f"pooling is 'projection', but backbone {spec!r} has no projection: leave pooling out"
        )
    num_prefix_tokens = 0
    if len(outputs.shape) == 3:
        patch = keras.tree.flatten(tower.patch_size)[0] if hasattr(tower, "patch_size") else 1
        num_prefix_tokens = outputs.shape[1] - (size // patch) ** 2
    outputs = pool(outputs, None if projection else pooling, num_prefix_tokens, spec)
    if family.norm and pooling in (None, "token", "projection"):
        outputs = getattr(model, family.norm)(outputs)
    if projection:
        outputs = getattr(model, projection)(outputs)
    return keras.Model(images, outputs, name="backbone")


def _normalization(spec: str, family: PresetFamily) -> Normalize:
    """The color transform of the preset's image converter; its resizing is done elsewhere."""
    import keras_hub

    try:
        converter = keras_hub.layers.ImageConverter.from_preset(spec)
        scale, offset = converter.scale, converter.offset
    except (FileNotFoundError, ValueError):
        mean, std = family.mean_std
        logging.info(
            "backbone %s has no image converter: using mean %s, std %s of its family",
            spec,
            mean,
            std,
        )
        scale = [1 / (255 * s) for s in std]
        offset = [-m / s for m, s in zip(mean, std, strict=True)]
    return Normalize(_per_channel(scale, 1.0), _per_channel(offset, 0.0), name="normalize")


def _per_channel(value: float | list[float] | None, default: float) -> list[float]:
    values = np.asarray(default if value is None else value, np.float64)
    return np.broadcast_to(values, 3).tolist()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
