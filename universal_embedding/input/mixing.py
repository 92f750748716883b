"""MixUp and CutMix between the pictures of a batch."""

import tensorflow as tf


def partners(count: int) -> list[int]:
    """The partner of each position of a batch: its neighbour in pairs, an odd last one itself.

    Pairs keep a batch's content independent of the hosts that share it.
    """
    return [min(i ^ 1, count - 1) for i in range(count)]


def draw_mix(seed: tf.Tensor, size: int, mixup: float, cutmix: float) -> tf.Tensor:
    """How a picture is mixed with its partner, from its own seed.

    Args:
        seed: `[2]` int32.
        size: Side of the pictures.
        mixup: Parameter of the Beta distribution of the share (Zhang et al. 2017); 0 for none.
        cutmix: The same for CutMix (Yun et al. 2019). Where both are given, a coin decides.

    Returns:
        `[5]` float32: share that stays in every pixel (1 with CutMix), and the rectangle that comes
        from the partner: top, left, bottom, right (empty with MixUp).
    """
    which, first, second, corner = tf.unstack(tf.random.experimental.stateless_split(seed, 4))
    cut = tf.random.stateless_uniform([], which) < (0.5 if mixup and cutmix else float(cutmix > 0))
    alpha = tf.where(cut, tf.cast(cutmix or 1, tf.float64), tf.cast(mixup or 1, tf.float64))
    # float64: with a small parameter both gammas can be tiny
    a, b = (tf.random.stateless_gamma([], s, alpha, dtype=tf.float64) for s in (first, second))
    share = tf.cast(a / (a + b), tf.float32)
    half = tf.sqrt(1 - share) * size / 2
    centre = tf.random.stateless_uniform([2], corner, 0, size)
    edges = tf.concat([centre - half, centre + half], 0)
    box = tf.clip_by_value(tf.round(edges), 0, size)
    return tf.where(cut, tf.concat([[1.0], box], 0), tf.concat([[share], tf.zeros(4)], 0))


def mix(batch: dict[str, tf.Tensor], how: tf.Tensor) -> dict[str, tf.Tensor]:
    """Mixes each picture with its partner, if that is of the same domain.

    Args:
        batch: `image` `[b, S, S, 3]`, `label` `[b]`, `domain` `[b]`, static shapes.
        how: `[b, 5]`, see `draw_mix`.

    Returns:
        The batch with mixed images and two more entries: `label2` `[b]` int32, the partner's label,
        and `mix` `[b]` float32, the share of the picture's own label in its loss.
    """
    count, size = batch["image"].shape[0], batch["image"].shape[1]
    other = tf.constant(partners(count))
    same = tf.gather(batch["domain"], other) == batch["domain"]
    same &= other != tf.range(count)
    share = tf.where(same, how[:, 0], 1.0)
    top, left, bottom, right = tf.unstack(tf.where(same[:, None], how[:, 1:], 0.0), axis=1)
    line = tf.range(size, dtype=tf.float32)[None]
    rows = (line >= top[:, None]) & (line < bottom[:, None])
    columns = (line >= left[:, None]) & (line < right[:, None])
    hole = tf.cast(rows[:, :, None] & columns[:, None, :], tf.float32)
    own = (share[:, None, None] * (1 - hole))[..., None]
    image = own * batch["image"] + (1 - own) * tf.gather(batch["image"], other)
    label2 = tf.gather(batch["label"], other)
    return {**batch, "image": image, "label2": label2, "mix": tf.reduce_mean(own, [1, 2, 3])}
