"""From encoded bytes to pixels, in the graph."""

from collections.abc import Callable

import tensorflow as tf


def decode(contents: tf.Tensor) -> tf.Tensor:
    """Decodes JPEG, PNG, GIF (first frame) or BMP.

    Args:
        contents: Scalar string.

    Returns:
        `[H, W, 3]` uint8; grey is repeated, transparency dropped.

    Raises:
        tf.errors.InvalidArgumentError: when run, if the bytes are no such picture.
    """
    image = tf.io.decode_image(contents, channels=3, expand_animations=False)
    return tf.ensure_shape(image, [None, None, 3])


def decode_crop(contents: tf.Tensor, box: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    """Decodes one rectangle of a picture; of a JPEG only the blocks it needs.

    Args:
        contents: Scalar string.
        box: From the picture's `[height, width]` (int32) to `[top, left, height, width]` (int32),
            within the picture.

    Returns:
        `[h, w, 3]` uint8.
    """

    def of_jpeg() -> tf.Tensor:
        window = box(tf.io.extract_jpeg_shape(contents)[:2])
        return tf.io.decode_and_crop_jpeg(contents, window, channels=3)

    def of_other() -> tf.Tensor:
        image = decode(contents)
        top, left, height, width = tf.unstack(box(tf.shape(image)[:2]))
        return image[top : top + height, left : left + width]

    image = tf.cond(tf.io.is_jpeg(contents), of_jpeg, of_other)
    return tf.ensure_shape(image, [None, None, 3])
