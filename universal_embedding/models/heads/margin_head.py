"""The classifier head: class weights of every domain, and the loss of a batch."""

from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from universal_embedding.errors import UserError
from universal_embedding.models.heads.chunked import chunked_split
from universal_embedding.models.heads.margins import MARGINS, apply_margin
from universal_embedding.models.heads.sampled import gather_classes, sample_classes
from universal_embedding.models.heads.sharding import (
    combine,
    gather_batch,
    local_classes,
    make_sharded,
    shard_size,
)
from universal_embedding.models.heads.softmax import Split, plain_split, unit_rows

METHODS = ("auto", "plain", "chunked")
PLAIN_LIMIT = 4_000_000  # batch x classes up to which the whole matrix is faster than chunks
CHUNK_LOGITS = 2**20  # batch x classes of a chunk: 4 MB, fast and still small


class MarginHead(keras.layers.Layer):
    """Cosine softmax with a margin over the classes of several domains; gives losses.

    The loss of a picture is the cross-entropy of `scale * cos t` over its classes, the target's
    cosine with its margin (see `margins.apply_margin`). With `joint` the classes are those of all
    domains, in one variable `[C * centers, D]`; otherwise those of the picture's own domain, in one
    variable for each, and a batch costs only the domains that are in it. All in float32, whatever
    the dtype policy.

    Args:
        classes: Number of classes by domain, in the order of the domains' numbers.
        dimension: D, of the embeddings.
        margin_kind: `none` (NormFace), `cosface` or `arcface`.
        margin: One number, or `[classes]` numbers by domain (see `margins.dynamic_margins`).
        scale: Multiplies the cosines.
        centers: Weights per class, of which the nearest counts (sub-centre ArcFace, ECCV 2020).
        joint: One softmax over all domains' classes instead of one per domain.
        method: `plain` (the whole `[B, C]` matrix), `chunked` (never holds it), or `auto`: plain up
            to `PLAIN_LIMIT` numbers in that matrix.
        chunk_size: Classes per chunk; None: so many that a chunk's logits have `CHUNK_LOGITS`.
        samples: Classes drawn at each step besides the batch's own, for a softmax over more
            classes than that; None: all classes count. See `sampled`.
        sharded: Divides each variable's classes over the replicas of the strategy in whose scope
            the head is made. See `sharding`.
        initializer: Of the weights. Only their direction counts, but their length sets how far a
            step turns them; by default rows have length 1 on average, whatever D and C.

    Attributes:
        class_weights: One variable if `joint`, otherwise one for each domain.
    """

    def __init__(
        self,
        classes: Mapping[str, int],
        dimension: int = 64,
        margin_kind: str = "arcface",
        margin: float | Mapping[str, Sequence[float]] = 0.3,
        scale: float = 30.0,
        centers: int = 1,
        joint: bool = False,
        method: str = "auto",
        chunk_size: int | None = None,
        samples: int | None = None,
        sharded: bool = False,
        initializer: keras.initializers.Initializer | None = None,
        name: str = "head",
    ) -> None:
        super().__init__(name=name, dtype="float32")
        _require("margin_kind", margin_kind, MARGINS)
        _require("method", method, METHODS)
        self.classes = dict(classes)
        self.margin_kind = margin_kind
        self.scale = scale
        self.centers = centers
        self.joint = joint
        self.method = method
        self.chunk_size = chunk_size
        self.samples = samples
        self.shards = tf.distribute.get_strategy().num_replicas_in_sync if sharded else 1
        counts = list(self.classes.values())
        self._offsets = np.cumsum([0, *counts[:-1]], dtype=np.int32)
        self._margins = _margins(margin, self.classes)
        if (
            margin_kind == "arcface"
            and not 0 <= np.min(self._margins) <= np.max(self._margins) <= np.pi
        ):
            raise UserError(
                f"MarginHead got an ArcFace margin of {np.max(np.abs(self._margins))}: it is an "
                "angle in radians, from 0 to pi"
            )
        self._groups = {"joint": sum(counts)} if joint else self.classes
        initializer = initializer or keras.initializers.RandomNormal(stddev=dimension**-0.5)
        self.class_weights = []
        for group, count in self._groups.items():
            shape, start = (count * centers, dimension), initializer.clone()
            name = f"classes_{group}"
            if self.shards > 1:
                size = shard_size(count, self.shards) * centers
                weights = make_sharded(np.asarray(start(shape)), size, name)
            else:
                weights = self.add_weight(shape=shape, initializer=start, name=name)
            self.class_weights.append(weights)
        self.built = True

    def call(
        self,
        embeddings: tf.Tensor,
        labels: tf.Tensor,
        domains: tf.Tensor,
        scale: tf.Tensor | None = None,
        margin_factor: tf.Tensor | float = 1.0,
        seed: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """The loss of each picture.

        Args:
            embeddings: `[B, D]` of any float dtype; their length does not count.
            labels: `[B]` int32, the class within its domain.
            domains: `[B]` int32, positions in `classes`.
            scale: Instead of the head's own, where a schedule changes it.
            margin_factor: Multiplies the margins, where a schedule changes them.
            seed: `[2]` int32 of the drawn classes, another at each step; with `samples` only.

        Returns:
            `[B]` float32.

        Raises:
            UserError: `samples` without a seed.
        """
        if self.samples and seed is None:
            raise UserError(
                f"MarginHead with samples={self.samples} was called without a seed: give one made "
                "of the run's seed and its step"
            )
        scale = tf.cast(self.scale if scale is None else scale, tf.float32)
        queries = unit_rows(tf.cast(embeddings, tf.float32)) * scale
        labels, domains = tf.cast(labels, tf.int32), tf.cast(domains, tf.int32)
        ids = tf.gather(self._offsets, domains) + labels
        inputs = (queries, ids if self.joint else labels, domains)
        if self.shards > 1:
            target, others = combine(*self._split(*map(gather_batch, inputs), seed), tf.size(ids))
        else:
            target, others = self._split(*inputs, seed)
        margin = self._margins if np.ndim(self._margins) == 0 else tf.gather(self._margins, ids)
        cosine = apply_margin(target / scale, margin * margin_factor, self.margin_kind)
        return tf.math.softplus(others - scale * cosine)

    def touched(self, domains: tf.Tensor) -> tf.Tensor:
        """Which of `class_weights` a batch of these `[B]` domains trains: `[len]` bool."""
        if self.joint:
            return tf.ones([1], tf.bool)
        numbers = tf.range(len(self.class_weights))[:, None]
        return tf.reduce_any(numbers == tf.cast(domains, tf.int32)[None], axis=1)

    def _split(
        self, queries: tf.Tensor, labels: tf.Tensor, domains: tf.Tensor, seed: tf.Tensor | None
    ) -> Split:
        """Target logit and the others' log-sum-exp, over this replica's classes."""
        if len(self.class_weights) == 1:
            return self._split_group(0, queries, labels, seed)
        target = others = tf.zeros_like(queries[:, 0])
        for group in range(len(self.class_weights)):
            here = domains == group

            def split(group: int = group, here: tf.Tensor = here) -> Split:
                return self._split_group(group, queries, tf.where(here, labels, -1), seed)

            nothing = tf.zeros_like(target)
            pair = tf.cond(tf.reduce_any(here), split, lambda n=nothing: (n, n))
            target, others = tf.where(here, pair[0], target), tf.where(here, pair[1], others)
        return target, others

    def _split_group(
        self, group: int, queries: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor | None
    ) -> Split:
        """The split over one variable's classes; labels -1 have their class elsewhere."""
        weights = tf.convert_to_tensor(self.class_weights[group])
        classes, bias = weights.shape[0] // self.centers, None
        if self.shards > 1:
            count = list(self._groups.values())[group]
            labels, bias = local_classes(labels, count, self.shards)
        if self.samples and self.samples < classes:
            ids, weight, labels = sample_classes(labels, classes, self.samples, seed)
            weights = gather_classes(weights, ids, self.centers)
            bias = weight if bias is None else weight + tf.gather(bias, ids)
            classes = ids.shape[0]
        batch = queries.shape[0] or 128
        small = batch * classes <= PLAIN_LIMIT
        if self.method == "plain" or (self.method == "auto" and small):
            return plain_split(queries, weights, labels, self.centers, bias)
        chunk = self.chunk_size or max(256, CHUNK_LOGITS // batch)
        return chunked_split(queries, weights, labels, self.centers, bias, chunk)


def _require(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise UserError(f"{name}={value!r} of MarginHead: choose one of {', '.join(allowed)}")


def _margins(
    margin: float | Mapping[str, Sequence[float]], classes: Mapping[str, int]
) -> np.ndarray:
    """A scalar, or the margins of all domains' classes one after another."""
    if not isinstance(margin, Mapping):
        return np.float32(margin)
    for domain, count in classes.items():
        if len(margin.get(domain, ())) != count:
            raise UserError(
                f"MarginHead got {len(margin.get(domain, ()))} margins for the domain {domain!r} "
                f"of {count} classes: give one margin per class, or one number for all"
            )
    return np.concatenate([np.float32(margin[domain]) for domain in classes])
