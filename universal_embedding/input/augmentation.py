"""Random changes of pixels: color jitter, RandAugment, random erasing, MixUp and CutMix.

Every function is stateless: its randomness comes from the seed of the image.
"""

from functools import lru_cache, partial

import keras
import tensorflow as tf

from universal_embedding.input.hashing import hash_ints
from universal_embedding.private_apis import seed_generator_from_tensor

GRAY = 127.5  # fills holes: the middle of the range, as in padding


def to_uint8(images: tf.Tensor) -> tf.Tensor:
    """Rounds float32 pixels of 0..255 to uint8; halves go up."""
    return tf.cast(images + 0.5, tf.uint8)


def color_jitter(
    image: tf.Tensor,
    seed: tf.Tensor,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
) -> tf.Tensor:
    """Jitters colors in the order of the arguments; strengths as in torchvision's ColorJitter.

    Args:
        image: `[H, W, 3]` float32, 0..255.
        seed: `[2]` int32.
        brightness: Largest fraction by which all values are scaled up or down, below 1.
        contrast: The same for the distance from the mean, below 1.
        saturation: The same for the saturation, below 1.
        hue: Largest rotation of the color circle, 0..0.5.

    Returns:
        `[H, W, 3]` float32, 0..255.
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
    """Applies RandAugment (Cubuk et al. 2019): a few random operations, one after the other.

    `keras.layers.RandAugment` itself keeps a random state, runs all eleven operations to keep one,
    and rotates by up to 180 degrees at its default strength.

    Args:
        image: `[S, S, 3]` float32, 0..255, static shape.
        seed: `[2]` int32.
        operations: Number of operations, sampled with replacement from `rand_augment_layers`.
        magnitude: 0..10; 10 rotates by up to 30 degrees and moves by up to 30 % of the side.

    Returns:
        `[S, S, 3]` float32, 0..255.
    """
    layers = rand_augment_layers(float(magnitude))
    for operation_seed in tf.unstack(tf.random.experimental.stateless_split(seed, operations)):
        choice_seed, layer_seed = tf.unstack(
            tf.random.experimental.stateless_split(operation_seed, 2)
        )
        index = tf.random.stateless_uniform([], choice_seed, 0, len(layers), tf.int32)
        branches = [partial(apply_layer, layer, image[None], layer_seed) for layer in layers]
        image = tf.ensure_shape(tf.switch_case(index, branches)[0], image.shape)
        image = tf.clip_by_value(image, 0.0, 255.0)
    return image


@lru_cache(maxsize=4)
def rand_augment_layers(magnitude: float) -> tuple[keras.Layer, ...]:
    """Makes RandAugment's operations at a magnitude of 0..10.

    Solarization is left out: that of Keras 3.15 has the same strength at every magnitude.
    """
    m, layers = magnitude / 10, keras.layers
    value_range = {"value_range": (0, 255)}
    bits = 8 - round(4 * m)
    fill = {"fill_mode": "constant", "fill_value": GRAY}
    return (
        layers.RandomRotation(30 / 360 * m, **fill),
        layers.RandomShear(0.3 * m, 0.0, **fill),
        layers.RandomShear(0.0, 0.3 * m, **fill),
        layers.RandomTranslation(0.3 * m, 0.0, **fill),
        layers.RandomTranslation(0.0, 0.3 * m, **fill),
        layers.RandomBrightness(0.5 * m, **value_range),
        layers.RandomContrast(0.9 * m, **value_range),
        layers.RandomColorDegeneration((0.0, 0.9 * m), **value_range),
        layers.RandomSharpness((0.5 - 0.45 * m, 0.5 + 0.45 * m), **value_range),
        layers.RandomPosterization((bits, bits), **value_range),
        layers.AutoContrast(**value_range),
        layers.Equalization(**value_range),
    )


def apply_layer(layer: keras.Layer, images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Applies a Keras augmentation layer with randomness from `seed`, `[2]` int32.

    Args:
        layer: Image augmentation layer with a value range of 0..255, where it has one.
        images: `[B, S, S, 3]` float32, 0..255.
        seed: `[2]` int32.

    Returns:
        `[B, S, S, 3]` float32; some layers exceed 0..255.
    """
    generator = seed_generator_from_tensor(seed)
    transformation = layer.get_random_transformation(images, training=True, seed=generator)
    return tf.cast(layer.transform_images(images, transformation, training=True), tf.float32)


def random_erasing(image: tf.Tensor, seed: tf.Tensor, area: float) -> tf.Tensor:
    """Grays out a square whose center is anywhere in the image (Cutout, DeVries and Taylor 2017).

    Args:
        image: `[S, S, 3]` float32, static shape.
        seed: `[2]` int32.
        area: Area of the square as a fraction of the image's, before the border clips it.

    Returns:
        `[S, S, 3]` float32.
    """
    size = image.shape[0]
    side = max(1, round(size * area**0.5))
    start = tf.random.stateless_uniform([2], seed, 0, size, tf.int32) - side // 2
    line = tf.range(size)[:, None]
    covered = (line >= start) & (line < start + side)
    hole = covered[:, 0][:, None, None] & covered[:, 1][None, :, None]
    return tf.where(hole, GRAY, image)


def mix_permutation(batch_size: int) -> list[int]:
    """Returns the partner of each position of a batch: pairs swap, an odd last one keeps itself.

    Pairs keep the content of a batch independent of the hosts that split it.
    """
    return [min(i ^ 1, batch_size - 1) for i in range(batch_size)]


def mixing_order(domain: tf.Tensor, label: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Orders batches so that the partners of `mix_permutation` can be mixed.

    Partners are of one domain, and of two classes unless one class has more than half of the
    batch's images of that domain. The classes of each domain are shuffled, and an image is paired
    with the one half of the domain's images after it. An image without a partner of its domain, at
    most one per domain, comes last.

    Args:
        domain: `[K, B]` int32, the domains of K batches.
        label: `[K, B]` int32, classes within the domain.
        seed: `[K, 2]` int32, of each batch.

    Returns:
        `[K, B]` int32 positions, a permutation of each batch.
    """
    key = tf.bitcast(seed, tf.int64)[:, None]
    noise = tf.bitwise.right_shift(hash_ints(key, domain, label), tf.constant(32, tf.uint64))
    sort_key = tf.cast(domain, tf.int64) * 2**32 + tf.bitcast(noise, tf.int64)
    order = tf.argsort(sort_key, axis=1, stable=True)
    domain = tf.gather(domain, order, axis=1, batch_dims=1)
    # Positions of each domain's images after sorting: `first`, and `rank` counted from it.
    is_same = domain[:, :, None] == domain[:, None, :]
    size = tf.reduce_sum(tf.cast(is_same, tf.int32), 2)
    first = tf.argmax(is_same, axis=2, output_type=tf.int32)
    rank = tf.range(tf.shape(domain)[1]) - first
    half = size // 2
    is_single = rank == 2 * half  # the last of an odd number
    num_singles = tf.cumsum(tf.cast(is_single, tf.int32), axis=1, exclusive=True)
    num_pairs = (first - num_singles) // 2 + rank % tf.maximum(half, 1)
    place = 2 * num_pairs + rank // tf.maximum(half, 1)
    num_paired = tf.shape(domain)[1] - tf.reduce_sum(tf.cast(is_single, tf.int32), 1)
    place = tf.where(is_single, num_paired[:, None] + num_singles, place)
    return tf.gather(order, tf.argsort(place, axis=1), axis=1, batch_dims=1)


def sample_mix(seed: tf.Tensor, size: int, mixup: float, cutmix: float) -> tf.Tensor:
    """Samples how an image is mixed with its partner.

    Args:
        seed: `[2]` int32, the image's own.
        size: Side of the images.
        mixup: Parameter of the Beta distribution of MixUp's ratio (Zhang et al. 2017); 0 for none.
        cutmix: The same for CutMix (Yun et al. 2019). If both are positive, a coin decides.

    Returns:
        `[5]` float32: ratio of the image in every pixel (1 with CutMix), and the rectangle that is
        taken from the partner: top, left, bottom, right (empty with MixUp).
    """
    choice, first, second, corner = tf.unstack(tf.random.experimental.stateless_split(seed, 4))
    cut_probability = 0.5 if mixup and cutmix else float(cutmix > 0)
    cut = tf.random.stateless_uniform([], choice) < cut_probability
    alpha = tf.where(cut, tf.cast(cutmix or 1, tf.float64), tf.cast(mixup or 1, tf.float64))
    # float64: with a small parameter both gammas can be tiny
    a, b = (tf.random.stateless_gamma([], s, alpha, dtype=tf.float64) for s in (first, second))
    ratio = tf.cast(a / (a + b), tf.float32)
    half = tf.sqrt(1 - ratio) * size / 2
    center = tf.random.stateless_uniform([2], corner, 0, size)
    edges = tf.concat([center - half, center + half], 0)
    box = tf.clip_by_value(tf.round(edges), 0, size)
    return tf.where(cut, tf.concat([[1.0], box], 0), tf.concat([[ratio], tf.zeros(4)], 0))


def mix(batch: dict[str, tf.Tensor], mix_params: tf.Tensor) -> dict[str, tf.Tensor]:
    """Mixes each image with its partner, if both are of the same domain.

    Args:
        batch: `image` `[b, S, S, 3]` uint8, `label` `[b]`, `domain` `[b]`, static shapes.
        mix_params: `[b, 5]` float32, see `sample_mix`.

    Returns:
        The batch with mixed images and two more entries: `label2` `[b]` int32, the partner's label,
        and `mix` `[b]` float32, the weight of the image's own label in its loss.
    """
    batch_size, size = batch["image"].shape[0], batch["image"].shape[1]
    partner = tf.constant(mix_permutation(batch_size))
    same = tf.gather(batch["domain"], partner) == batch["domain"]
    same &= partner != tf.range(batch_size)
    ratio = tf.where(same, mix_params[:, 0], 1.0)
    top, left, bottom, right = tf.unstack(tf.where(same[:, None], mix_params[:, 1:], 0.0), axis=1)
    line = tf.range(size, dtype=tf.float32)[None]
    rows = (line >= top[:, None]) & (line < bottom[:, None])
    columns = (line >= left[:, None]) & (line < right[:, None])
    hole = tf.cast(rows[:, :, None] & columns[:, None, :], tf.float32)
    weight = (ratio[:, None, None] * (1 - hole))[..., None]
    own = tf.cast(batch["image"], tf.float32)
    image = to_uint8(weight * own + (1 - weight) * tf.gather(own, partner))
    label2 = tf.gather(batch["label"], partner)
    return {**batch, "image": image, "label2": label2, "mix": tf.reduce_mean(weight, [1, 2, 3])}
