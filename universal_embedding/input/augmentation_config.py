"""Augmentation settings. Imports no TensorFlow, so that configs and flags are read quickly."""

from dataclasses import dataclass

from universal_embedding.errors import UserError

RESIZE_MODES = ("squash", "crop", "pad")  # see `resizing.resize`
CROP_MODES = ("random_resized", "resize", "none")
_UPPER_BOUNDS = {
    "brightness": 1,
    "contrast": 1,
    "saturation": 1,
    "hue": 0.5,
    "randaugment": 10,
    "magnitude": 10,
    "random_erasing": 1,
    "mixup": 100,
    "cutmix": 100,
}


@dataclass(frozen=True)
class AugmentationConfig:
    """Augmentation of training images; the default is a mild random-resized crop and a flip.

    Attributes:
        size: Side of the output in pixels.
        resize_mode: `squash`, `crop` or `pad`, as in evaluation (`resizing.resize`). With `squash`
            a crop keeps the image's aspect ratio (times `ratio`) and is squashed like the whole
            image; with `crop` it is a rectangle of about equal sides; with `pad` it keeps the
            image's aspect ratio and is padded.
        crop: `random_resized` (Inception), `resize` (resize to size * `resize_ratio`, then a random
            crop) or `none`.
        scale: Range of a random-resized crop's area, as a fraction of the image's. (0.08, 1) is
            usual for classification; retrieval needs to see more of the object (DINOv2's global
            crops start at 0.32).
        ratio: Range of a random-resized crop's aspect ratio.
        resize_ratio: Size before the crop `resize`, relative to `size`; 256 / 224 is usual and
            UnED's.
        scaled_decoding: Whether a JPEG is decoded at 1/2, 1/4 or 1/8 of its size where the crop is
            then still at least `size` on both sides: faster, and some gray levels off.
        flip: Whether half of the images are mirrored.
        brightness: Strength of the color jitter, see `augmentation.color_jitter`; 0 for none, 0.4
            is usual.
        contrast: The same for the contrast.
        saturation: The same for the saturation.
        hue: The same for the hue; 0.1 is usual.
        randaugment: Number of RandAugment operations; 0 for none, 2 is usual.
        magnitude: Magnitude of RandAugment, 0..10.
        random_erasing: Area of the erased square as a fraction of the image's; 0 for none.
        mixup: Parameter of MixUp's Beta distribution; 0 for none, 0.2 is usual.
        cutmix: The same for CutMix; 1 is usual. With both, each image gets one of them.

    Raises:
        UserError: a value is unknown or out of range.
    """

    size: int = 224
    resize_mode: str = "squash"
    crop: str = "random_resized"
    scale: tuple[float, float] = (0.3, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    resize_ratio: float = 256 / 224
    scaled_decoding: bool = True
    flip: bool = True
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    randaugment: int = 0
    magnitude: float = 5.0
    random_erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        for name, choices in (("resize_mode", RESIZE_MODES), ("crop", CROP_MODES)):
            if getattr(self, name) not in choices:
                raise UserError(
                    f"{name} {getattr(self, name)!r} in the augmentation config is unknown; "
                    f"use one of {choices}"
                )
        if self.size < 1 or self.resize_ratio < 1:
            raise UserError(
                f"size {self.size} and resize_ratio {self.resize_ratio} in the augmentation config "
                "must be at least 1"
            )
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise UserError(
                f"scale {self.scale} in the augmentation config must be fractions of the area, the "
                "smaller one first, such as (0.3, 1)"
            )
        for name, upper in _UPPER_BOUNDS.items():
            value = getattr(self, name)
            if not 0 <= value <= upper:
                raise UserError(
                    f"{name} {value} in the augmentation config must be in 0..{upper}; 0 turns it "
                    "off"
                )

    @property
    def uses_mixing(self) -> bool:
        """Whether images are mixed with each other."""
        return bool(self.mixup or self.cutmix)
