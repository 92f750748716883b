"""The families of KerasHub that see pictures, and the few facts in which they differ."""

from dataclasses import dataclass

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclass(frozen=True)
class Family:
    """Where a family keeps what makes its features. Names are attributes of its KerasHub class.

    Attributes:
        mean_std: Normalisation of 0..1, used where a preset brings none of its own.
        tower: The model of pictures inside a model of pictures and text.
        sequence: The layer of the tower whose output is a sequence, where the tower itself ends
            in one vector.
        norm: A layer that follows the class token.
        projection: The layer from there into the space shared with text.
    """

    mean_std: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET
    tower: str | None = None
    sequence: str | None = None
    norm: str | None = None
    projection: str | None = None


FAMILIES = {
    "CLIPBackbone": Family(CLIP, tower="vision_encoder", projection="vision_projection"),
    "CLIPVisionEncoder": Family(CLIP),
    "MetaCLIP2Backbone": Family(
        CLIP,
        tower="vision_encoder",
        norm="vision_post_layer_norm",
        projection="vision_projection",
    ),
    "MetaCLIP2VisionEncoder": Family(CLIP),
    "SigLIPBackbone": Family(HALF, tower="vision_encoder", sequence="post_layer_norm"),
    "SigLIPVisionEncoder": Family(HALF, sequence="post_layer_norm"),
    "ViTBackbone": Family(HALF),
    "DeiTBackbone": Family(),
    "DINOV2Backbone": Family(),
    "DINOV3Backbone": Family(),
    "CSPNetBackbone": Family(),
    "DenseNetBackbone": Family(),
    "EfficientNetBackbone": Family(),
    "HGNetV2Backbone": Family(),
    "MiTBackbone": Family(),
    "MobileNetBackbone": Family(),
    "MobileNetV5Backbone": Family(),
    "ResNetBackbone": Family(),
    "SwinTransformerBackbone": Family(),
    "VGGBackbone": Family(),
    "XceptionBackbone": Family(),
}
