"""A small network that is trained from scratch where no pretrained one is available."""

import keras
from keras import layers

WIDTHS = (24, 48, 96, 192)
GROUPS = 8


def small_network(image_size: int = 64) -> keras.Model:
    """Builds four convolutional stages, each at half the size of the last; the last two residual.

    Group normalization (Wu and He 2018, arXiv 1803.08494) makes the features independent of the
    other images of a batch: batches of one domain, of any size, on any number of replicas, train
    and evaluate alike.

    Args:
        image_size: Side of the images, at least 32; designed for 64 to 96.

    Returns:
        A model from `[B, image_size, image_size, 3]` float32 in 0..255 to `[B, 384]` features: the
        mean and the maximum of each channel over the image.

    Raises:
        ValueError: `image_size` is under 32.
    """
    if image_size < 32:
        raise ValueError(f"image_size is {image_size}; the small network takes 32 or more")
    images = keras.Input((image_size, image_size, 3), dtype="float32")
    x = layers.Rescaling(1 / 64, offset=-127.5 / 64, dtype="float32")(images)
    x = _convolution(x, WIDTHS[0], size=5, stride=2)
    x = _convolution(x, WIDTHS[1], stride=2)
    for width in WIDTHS[2:]:
        x = _convolution(x, width, stride=2)
        x = layers.Add()([x, _convolution(x, width)])
    mean = layers.GlobalAveragePooling2D()(x)
    maximum = layers.GlobalMaxPooling2D()(x)
    return keras.Model(images, layers.Concatenate()([mean, maximum]), name="small_network")


def _convolution(
    x: keras.KerasTensor, width: int, size: int = 3, stride: int = 1
) -> keras.KerasTensor:
    x = layers.Conv2D(width, size, stride, padding="same", use_bias=False)(x)
    x = layers.GroupNormalization(GROUPS)(x)
    return layers.ReLU()(x)
