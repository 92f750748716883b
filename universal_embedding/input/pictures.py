"""From an encoded picture to the square a backbone takes: for training at random, for evaluation
as it is.
"""

from dataclasses import dataclass

import tensorflow as tf

from universal_embedding.errors import UserError
from universal_embedding.input.augmentation import cutout, jitter, rand_augment
from universal_embedding.input.decoding import decode, decode_crop
from universal_embedding.input.resizing import ASPECTS, resize

CROPS = ("random_resized", "resize", "none")
_MOST = {
    "brightness": 1,
    "contrast": 1,
    "saturation": 1,
    "hue": 0.5,
    "randaugment": 10,
    "magnitude": 10,
    "cutout": 1,
    "mixup": 100,
    "cutmix": 100,
}
_FRAME = 1 << 12  # boxes that follow the picture's own shape are drawn in a square of this side


@dataclass(frozen=True)
class PictureOptions:
    """How a training picture is made; the defaults are a mild random-resized crop and a flip.

    Attributes:
        size: Side of the result in pixels.
        aspect: `squash`, `crop` or `pad`, as in evaluation (`resizing.resize`). With `squash` a
            crop keeps the picture's shape (times `ratio`) and is squashed like the whole picture
            will be; with `crop` it is a rectangle of about equal sides; with `pad` it keeps the
            picture's shape and is padded.
        crop: `random_resized` (Inception), `resize` (resize to size * `resize_ratio`, then a random
            crop) or `none`.
        scale: Least and greatest share of the picture's area in a random-resized crop. (0.08, 1)
            is usual for classification; retrieval needs more of the object to be seen (DINOv2
            takes its global crops from 0.32 on).
        ratio: Least and greatest aspect ratio of a random-resized crop.
        resize_ratio: Of `resize`; 256 / 224 is usual and UnED's.
        flip: Whether half of the pictures are mirrored.
        brightness: Colour jitter, see `augmentation.jitter`; 0 for none, 0.4 is usual.
        contrast: The same.
        saturation: The same.
        hue: The same; 0.1 is usual.
        randaugment: Number of operations of RandAugment; 0 for none, 2 is usual.
        magnitude: Of RandAugment, 0..10.
        cutout: Side of the greyed-out square as a share of `size`; 0 for none.
        mixup: Parameter of MixUp's Beta distribution; 0 for none, 0.2 is usual.
        cutmix: The same for CutMix; 1 is usual. With both, each picture has one of them.
    """

    size: int = 224
    aspect: str = "squash"
    crop: str = "random_resized"
    scale: tuple[float, float] = (0.3, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    resize_ratio: float = 256 / 224
    flip: bool = True
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    randaugment: int = 0
    magnitude: float = 5.0
    cutout: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        for name, choices in (("aspect", ASPECTS), ("crop", CROPS)):
            if getattr(self, name) not in choices:
                raise UserError(
                    f"{name} {getattr(self, name)!r} in the picture options is unknown; "
                    f"use one of {choices}"
                )
        if self.size < 1 or self.resize_ratio < 1:
            raise UserError(
                f"size {self.size} and resize_ratio {self.resize_ratio} in the picture options "
                "must be at least 1"
            )
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise UserError(
                f"scale {self.scale} in the picture options must be shares of the area, the "
                "smaller one first, such as (0.3, 1)"
            )
        for name, most in _MOST.items():
            value = getattr(self, name)
            if not 0 <= value <= most:
                raise UserError(
                    f"{name} {value} in the picture options must lie in 0..{most}; 0 turns it off"
                )

    @property
    def mixes(self) -> bool:
        """Whether pictures are mixed with each other."""
        return bool(self.mixup or self.cutmix)


def evaluation_picture(contents: tf.Tensor, size: int, aspect: str) -> tf.Tensor:
    """The whole picture, or its central square: `[size, size, 3]` float32, 0..255."""
    return resize(decode(contents), size, aspect)


def training_picture(contents: tf.Tensor, seed: tf.Tensor, options: PictureOptions) -> tf.Tensor:
    """A random view of a picture; a pure function of its bytes and seed.

    Args:
        contents: Scalar string, the encoded picture.
        seed: `[2]` int32.
        options: See there.

    Returns:
        `[size, size, 3]` float32, 0..255.
    """
    crop, flip, colour, rand, hole = tf.unstack(tf.random.experimental.stateless_split(seed, 5))
    image = _CROPPED[options.crop](contents, crop, options)
    image = tf.ensure_shape(image, [options.size, options.size, 3])
    if options.flip:
        image = tf.image.stateless_random_flip_left_right(image, flip)
    strengths = (options.brightness, options.contrast, options.saturation, options.hue)
    if any(strengths):
        image = jitter(image, colour, *strengths)
    if options.randaugment:
        image = rand_augment(image, rand, options.randaugment, options.magnitude)
    if options.cutout:
        image = cutout(image, hole, options.cutout)
    return image


def _random_resized(contents: tf.Tensor, seed: tf.Tensor, options: PictureOptions) -> tf.Tensor:
    def box(shape: tf.Tensor) -> tf.Tensor:
        frame = shape if options.aspect == "crop" else tf.constant([_FRAME, _FRAME])
        begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
            tf.concat([frame, [3]], 0),
            bounding_boxes=tf.zeros([1, 0, 4]),
            seed=seed,
            area_range=options.scale,
            aspect_ratio_range=options.ratio,
            use_image_if_no_bounding_boxes=True,
            max_attempts=10,
        )
        if options.aspect == "crop":
            return tf.concat([begin[:2], size[:2]], 0)
        return _of_frame(tf.concat([begin[:2], size[:2]], 0) / _FRAME, shape)

    image = decode_crop(contents, box)
    if options.aspect == "pad":
        return resize(image, options.size, "pad")
    return _squash(image, options.size)


def _resize_and_crop(contents: tf.Tensor, seed: tf.Tensor, options: PictureOptions) -> tf.Tensor:
    if options.aspect == "pad":
        image = resize(decode(contents), round(options.size * options.resize_ratio), "pad")
        return tf.image.stateless_random_crop(image, [options.size, options.size, 3], seed)

    def box(shape: tf.Tensor) -> tf.Tensor:
        # Cropping first gives the same picture but for the rounding to pixels, for less work.
        share = 1 / options.resize_ratio
        corner = tf.random.stateless_uniform([2], seed) * (1 - share)
        region = tf.concat([corner, [share, share]], 0)
        if options.aspect == "squash":
            return _of_frame(tf.cast(region, tf.float64), shape)
        side = tf.reduce_min(shape)
        inner = _of_frame(tf.cast(region, tf.float64), tf.stack([side, side]))
        return inner + tf.concat([(shape - side) // 2, [0, 0]], 0)

    return _squash(decode_crop(contents, box), options.size)


def _whole(contents: tf.Tensor, seed: tf.Tensor, options: PictureOptions) -> tf.Tensor:
    del seed
    return evaluation_picture(contents, options.size, options.aspect)


_CROPPED = {"random_resized": _random_resized, "resize": _resize_and_crop, "none": _whole}


def _squash(image: tf.Tensor, size: int) -> tf.Tensor:
    """`resize` for random crops: by area averages where these shrink both sides.

    They keep aliases out as the triangle filter of evaluation does, in a sixth of its time, which
    is otherwise as much as decoding takes. Of a crop that grows they would make blocks.
    """

    def shrink() -> tf.Tensor:
        averages = tf.raw_ops.ResizeArea(images=image[None], size=[size, size])[0]
        return tf.clip_by_value(averages, 0.0, 255.0)

    shrinks = tf.reduce_all(tf.shape(image)[:2] >= size)
    return tf.cond(shrinks, shrink, lambda: resize(image, size))


def _of_frame(region: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    """Shares (top, left, height, width; float64) of a picture as whole pixels, at least one."""
    scaled = region * tf.cast(tf.concat([shape, shape], 0), tf.float64)
    size = tf.clip_by_value(tf.cast(tf.round(scaled[2:]), tf.int32), 1, shape)
    begin = tf.clip_by_value(tf.cast(tf.round(scaled[:2]), tf.int32), 0, shape - size)
    return tf.concat([begin, size], 0)
