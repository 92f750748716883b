"""Changes to the pixels of one picture, seeded by the picture's own seed.

The operations are Keras' and TensorFlow's; nothing here keeps a state.
"""

from functools import lru_cache

import keras
import tensorflow as tf

GREY = 127.5  # what fills a hole: the middle of the range, as in padding


def jitter(
    image: tf.Tensor,
    seed: tf.Tensor,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
) -> tf.Tensor:
    """Colour jitter in that order; strengths as in torchvision's ColorJitter.

    Args:
        image: `[H, W, 3]` float32, 0..255.
        seed: `[2]` int32.
        brightness: Greatest share by which all values are scaled up or down, below 1.
        contrast: The same for the distance from the mean, below 1.
        saturation: The same for the saturation, below 1.
        hue: Greatest turn of the colour circle, 0..0.5.
    """
    seeds = tf.random.experimental.stateless_split(seed, 4)
    if brightness:
        scale = tf.random.stateless_uniform([], seeds[0], 1 - brightness, 1 + brightness)
        image = tf.clip_by_value(image * scale, 0.0, 255.0)
    if contrast:
        image = tf.image.stateless_random_contrast(image, 1 - contrast, 1 + contrast, seeds[1])
    if saturation:
        image = tf.clip_by_value(image, 0.0, 255.0)
        image = tf.image.stateless_random_saturation(
            image, 1 - saturation, 1 + saturation, seeds[2]
        )
    if hue:
        image = tf.clip_by_value(image, 0.0, 255.0)
        image = tf.image.stateless_random_hue(image, hue, seeds[3])
    return tf.clip_by_value(image, 0.0, 255.0)


def rand_augment(image: tf.Tensor, seed: tf.Tensor, operations: int, magnitude: float) -> tf.Tensor:
    """RandAugment (Cubuk et al. 2019) from Keras' layers: a few random operations in turn.

    `keras.layers.RandAugment` itself keeps a random state, runs all eleven operations to keep one,
    and turns by up to 180 degrees at its default strength. Solarization is left out: that of Keras
    3.15 has the same strength at every magnitude.

    Args:
        image: `[S, S, 3]` float32, 0..255, static shape.
        seed: `[2]` int32.
        operations: How many, with replacement.
        magnitude: 0..10; 10 turns by up to 30 degrees and moves by up to 30 % of the side.
    """
    layers = _layers(float(magnitude))
    for seed_pair in tf.unstack(tf.random.experimental.stateless_split(seed, operations)):
        which, how = tf.unstack(tf.random.experimental.stateless_split(seed_pair, 2))
        index = tf.random.stateless_uniform([], which, 0, len(layers), tf.int32)
        branches = [_branch(layer, image[None], how) for layer in layers]
        image = tf.ensure_shape(tf.switch_case(index, branches)[0], image.shape)
        image = tf.clip_by_value(image, 0.0, 255.0)
    return image


def cutout(image: tf.Tensor, seed: tf.Tensor, share: float) -> tf.Tensor:
    """Greys out a square (DeVries and Taylor 2017); its centre lies anywhere in the picture.

    Args:
        image: `[S, S, 3]` float32, static shape.
        seed: `[2]` int32.
        share: Side of the square as a share of S.
    """
    size = image.shape[0]
    centre = tf.random.stateless_uniform([2], seed, 0, size, tf.int32)
    half = max(1, round(size * share / 2))
    inside = tf.abs(tf.range(size)[:, None] - centre[None]) < half
    hole = inside[:, 0][:, None, None] & inside[:, 1][None, :, None]
    return tf.where(hole, GREY, image)


class _Seed(keras.random.SeedGenerator):
    """A seed for Keras' layers that comes from a tensor instead of a variable."""

    def __init__(self, seed: tf.Tensor) -> None:
        self._seed, self._count = seed, 0  # no super().__init__: it makes the variable

    def next(self, ordered: bool = True) -> tf.Tensor:
        del ordered
        self._count += 1
        return tf.random.experimental.stateless_fold_in(self._seed, self._count)


def _branch(layer: keras.Layer, images: tf.Tensor, seed: tf.Tensor) -> object:
    def run() -> tf.Tensor:
        how = layer.get_random_transformation(images, training=True, seed=_Seed(seed))
        return tf.cast(layer.transform_images(images, how, training=True), tf.float32)

    return run


@lru_cache(maxsize=4)
def _layers(magnitude: float) -> tuple[keras.Layer, ...]:
    m, k = magnitude / 10, keras.layers
    whole = {"value_range": (0, 255)}
    bits = 8 - round(4 * m)
    fill = {"fill_mode": "constant", "fill_value": GREY}
    return (
        k.RandomRotation(30 / 360 * m, **fill),
        k.RandomShear(0.3 * m, 0.0, **fill),
        k.RandomShear(0.0, 0.3 * m, **fill),
        k.RandomTranslation(0.3 * m, 0.0, **fill),
        k.RandomTranslation(0.0, 0.3 * m, **fill),
        k.RandomBrightness(0.5 * m, **whole),
        k.RandomContrast(0.9 * m, **whole),
        k.RandomColorDegeneration((0.0, 0.9 * m), **whole),
        k.RandomSharpness((0.5 - 0.45 * m, 0.5 + 0.45 * m), **whole),
        k.RandomPosterization((bits, bits), **whole),
        k.AutoContrast(**whole),
        k.Equalization(**whole),
    )
