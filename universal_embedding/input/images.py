"""From an encoded image to the square that a backbone takes, in the TensorFlow graph."""

from collections.abc import Callable
from functools import partial

import tensorflow as tf

from universal_embedding.input.augmentation import (
    color_jitter,
    rand_augment,
    random_erasing,
    to_uint8,
)
from universal_embedding.input.augmentation_config import AugmentationConfig
from universal_embedding.input.resizing import resize

__all__ = ["AugmentationConfig", "decode", "decode_crop", "preprocess_eval", "preprocess_train"]

_JPEG_SCALES = (1, 2, 4, 8)  # the decoder divides both sides by these at less than full work
_FRAME = 1 << 12  # crops with the image's own aspect ratio are sampled in a square of this side


def decode(contents: tf.Tensor) -> tf.Tensor:
    """Decodes JPEG, PNG, GIF (first frame) or BMP.

    Prepared records hold no transparency, rotation or 16-bit images: see `datasets.image_files`.

    Args:
        contents: Scalar string.

    Returns:
        `[H, W, 3]` uint8; gray is repeated, an alpha channel is dropped.

    Raises:
        tf.errors.InvalidArgumentError: when run, if the bytes cannot be decoded.
    """
    image = tf.io.decode_image(contents, channels=3, expand_animations=False)
    return tf.ensure_shape(image, [None, None, 3])


def decode_crop(
    contents: tf.Tensor,
    make_box: Callable[[tf.Tensor], tf.Tensor],
    min_size: int | None = None,
) -> tf.Tensor:
    """Decodes one rectangle of an image; of a JPEG only the blocks that it needs.

    Args:
        contents: Scalar string.
        make_box: From the image's `[height, width]` (int32) to `[top, left, height, width]`
            (int32), within the image.
        min_size: If given, a JPEG is decoded at 1/2, 1/4 or 1/8 of its size where both sides of the
            rectangle are then still at least this long.

    Returns:
        `[h, w, 3]` uint8.
    """

    def decode_scaled(box: tf.Tensor, scale: int) -> tf.Tensor:
        size = box[2:] // scale
        begin = (box[:2] + (box[2:] - size * scale + scale) // 2) // scale  # centers agree
        box = tf.concat([begin, size], 0)
        return tf.io.decode_and_crop_jpeg(contents, box, channels=3, ratio=scale)

    def decode_jpeg() -> tf.Tensor:
        box = make_box(tf.io.extract_jpeg_shape(contents)[:2])
        if min_size is None:
            return decode_scaled(box, 1)
        times = tf.reduce_min(box[2:]) // min_size
        index = tf.reduce_sum(tf.cast(times >= _JPEG_SCALES[1:], tf.int32))
        return tf.switch_case(index, [partial(decode_scaled, box, s) for s in _JPEG_SCALES])

    def decode_other() -> tf.Tensor:
        image = decode(contents)
        top, left, height, width = tf.unstack(make_box(tf.shape(image)[:2]))
        return image[top : top + height, left : left + width]

    image = tf.cond(tf.io.is_jpeg(contents), decode_jpeg, decode_other)
    return tf.ensure_shape(image, [None, None, 3])


def preprocess_eval(contents: tf.Tensor, size: int, resize_mode: str) -> tf.Tensor:
    """Decodes and resizes for evaluation: scalar string -> `[size, size, 3]` float32, 0..255."""
    return resize(decode(contents), size, resize_mode)


def preprocess_train(contents: tf.Tensor, seed: tf.Tensor, config: AugmentationConfig) -> tf.Tensor:
    """Makes a random view of an image; a pure function of its bytes and seed.

    Args:
        contents: Scalar string, the encoded image.
        seed: `[2]` int32.
        config: Augmentation settings; its MixUp and CutMix are not applied here.

    Returns:
        `[size, size, 3]` uint8.
    """
    crop_seed, flip_seed, jitter_seed, rand_augment_seed, erasing_seed = tf.unstack(
        tf.random.experimental.stateless_split(seed, 5)
    )
    image = to_uint8(_CROPS[config.crop](contents, crop_seed, config))
    image = tf.ensure_shape(image, [config.size, config.size, 3])
    if config.flip:
        image = tf.image.stateless_random_flip_left_right(image, flip_seed)
    strengths = (config.brightness, config.contrast, config.saturation, config.hue)
    if not (any(strengths) or config.randaugment or config.random_erasing):
        return image
    image = tf.cast(image, tf.float32)
    if any(strengths):
        image = color_jitter(image, jitter_seed, *strengths)
    if config.randaugment:
        image = rand_augment(image, rand_augment_seed, config.randaugment, config.magnitude)
    if config.random_erasing:
        image = random_erasing(image, erasing_seed, config.random_erasing)
    return to_uint8(image)


def _random_resized_crop(
    contents: tf.Tensor, seed: tf.Tensor, config: AugmentationConfig
) -> tf.Tensor:
    def make_box(shape: tf.Tensor) -> tf.Tensor:
        frame = shape if config.resize_mode == "crop" else tf.constant([_FRAME, _FRAME])
        begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
            tf.concat([frame, [3]], 0),
            bounding_boxes=tf.zeros([1, 0, 4]),
            seed=seed,
            area_range=config.scale,
            aspect_ratio_range=config.ratio,
            use_image_if_no_bounding_boxes=True,
            max_attempts=10,
        )
        if config.resize_mode == "crop":
            return tf.concat([begin[:2], size[:2]], 0)
        return _scale_box(tf.concat([begin[:2], size[:2]], 0) / _FRAME, shape)

    image = decode_crop(contents, make_box, _min_size(config))
    if config.resize_mode == "pad":
        return resize(image, config.size, "pad")
    return _squash(image, config.size)


def _resize_and_crop(contents: tf.Tensor, seed: tf.Tensor, config: AugmentationConfig) -> tf.Tensor:
    if config.resize_mode == "pad":
        image = resize(decode(contents), round(config.size * config.resize_ratio), "pad")
        return tf.image.stateless_random_crop(image, [config.size, config.size, 3], seed)

    def make_box(shape: tf.Tensor) -> tf.Tensor:
        # Cropping first gives the same image except for rounding to pixels, with less work.
        side = 1 / config.resize_ratio
        corner = tf.random.stateless_uniform([2], seed) * (1 - side)
        box = tf.cast(tf.concat([corner, [side, side]], 0), tf.float64)
        if config.resize_mode == "squash":
            return _scale_box(box, shape)
        square = tf.reduce_min(shape)
        square_box = _scale_box(box, tf.stack([square, square]))
        return square_box + tf.concat([(shape - square) // 2, [0, 0]], 0)

    return _squash(decode_crop(contents, make_box, _min_size(config)), config.size)


def _no_crop(contents: tf.Tensor, seed: tf.Tensor, config: AugmentationConfig) -> tf.Tensor:
    del seed
    return preprocess_eval(contents, config.size, config.resize_mode)


_CROPS = {"random_resized": _random_resized_crop, "resize": _resize_and_crop, "none": _no_crop}


def _min_size(config: AugmentationConfig) -> int | None:
    return config.size if config.scaled_decoding else None


def _squash(image: tf.Tensor, size: int) -> tf.Tensor:
    """`resize` for random crops: area averages along a side that shrinks, bilinear along others.

    Averages prevent aliasing as the triangle filter of evaluation does, in a third of its time,
    which is otherwise as long as decoding. Enlarging with them would make blocks.
    """
    shape = tf.shape(image)[:2]
    smaller = tf.minimum(shape, size)

    def shrink() -> tf.Tensor:
        return tf.raw_ops.ResizeArea(images=image[None], size=smaller)[0]

    def enlarge() -> tf.Tensor:
        return tf.image.resize(shrunk, [size, size])

    shrunk = tf.cond(tf.reduce_any(shape > size), shrink, lambda: tf.cast(image, tf.float32))
    return tf.cond(tf.reduce_all(smaller == size), lambda: shrunk, enlarge)


def _scale_box(box: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    """Scales a box in fractions (top, left, height, width; float64) to pixels, at least one."""
    scaled = box * tf.cast(tf.concat([shape, shape], 0), tf.float64)
    size = tf.clip_by_value(tf.cast(tf.round(scaled[2:]), tf.int32), 1, shape)
    begin = tf.clip_by_value(tf.cast(tf.round(scaled[:2]), tf.int32), 0, shape - size)
    return tf.concat([begin, size], 0)
