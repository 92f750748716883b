"""The classifier head: class weights of every domain, and the loss of a batch."""

from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from universal_embedding.errors import UserError
from universal_embedding.models.heads.chunked import DEFAULT_CHUNK_SIZE, chunked_split
from universal_embedding.models.heads.margins import MARGINS, apply_margin
from universal_embedding.models.heads.softmax import plain_split, unit_rows

METHODS = ("auto", "plain", "chunked", "sampled")
PLAIN_LIMIT = 4_000_000  # batch x classes up to which the whole matrix is faster than chunks


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
        method: `plain` (the whole `[B, C]` matrix), `chunked` (never holds it), or `auto`: by size.
        chunk_size: Classes per chunk.
        initializer: Of the weights. Only their direction counts, but their length sets how far a
            step turns them; by default rows have length 1 on average, whatever D and C.
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
        chunk_size: int = DEFAULT_CHUNK_SIZE,
        initializer: keras.initializers.Initializer | None = None,
        name: str = "head",
    ) -> None:
        super().__init__(name=name, dtype="float32")
        _require("margin_kind", margin_kind, MARGINS)
        _require("method", method, METHODS)
        self.classes = dict(classes)
        self.dimension = dimension
        self.margin_kind = margin_kind
        self.scale = scale
        self.centers = centers
        self.joint = joint
        self.method = method
        self.chunk_size = chunk_size
        sizes = list(self.classes.values())
        self._offsets = np.cumsum([0, *sizes[:-1]], dtype=np.int32)
        self._margins = _margins(margin, self.classes)
        groups = {"joint": sum(sizes)} if joint else self.classes
        initializer = initializer or keras.initializers.RandomNormal(stddev=dimension**-0.5)
        self.class_weights = [
            self.add_weight(
                shape=(count * centers, dimension),
                initializer=initializer.clone(),
                name=f"classes_{group}",
            )
            for group, count in groups.items()
        ]
        self.built = True

    def call(
        self,
        embeddings: tf.Tensor,
        labels: tf.Tensor,
        domains: tf.Tensor,
        scale: tf.Tensor | None = None,
        margin_factor: tf.Tensor | float = 1.0,
    ) -> tf.Tensor:
        """The loss of each picture.

        Args:
            embeddings: `[B, D]` of any float dtype; their length does not count.
            labels: `[B]` int32, the class within its domain.
            domains: `[B]` int32, positions in `classes`.
            scale: Instead of the head's own, where a schedule changes it.
            margin_factor: Multiplies the margins, where a schedule changes them.

        Returns:
            `[B]` float32.
        """
        scale = tf.cast(self.scale if scale is None else scale, tf.float32)
        queries = unit_rows(tf.cast(embeddings, tf.float32)) * scale
        labels, domains = tf.cast(labels, tf.int32), tf.cast(domains, tf.int32)
        ids = tf.gather(self._offsets, domains) + labels
        target, others = self._split(queries, labels, domains, ids)
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
        self, queries: tf.Tensor, labels: tf.Tensor, domains: tf.Tensor, ids: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Target logit and the others' log-sum-exp, `[B]` each."""
        if self.joint:
            return self._split_group(queries, self.class_weights[0], ids)
        if len(self.class_weights) == 1:
            return self._split_group(queries, self.class_weights[0], labels)
        target = others = tf.zeros_like(queries[:, 0])
        for number, weights in enumerate(self.class_weights):
            here = domains == number

            def split(here: tf.Tensor = here, weights: keras.Variable = weights) -> tuple:
                return self._split_group(queries, weights, tf.where(here, labels, -1))

            nothing = tf.zeros_like(target)
            pair = tf.cond(tf.reduce_any(here), split, lambda n=nothing: (n, n))
            target, others = tf.where(here, pair[0], target), tf.where(here, pair[1], others)
        return target, others

    def _split_group(
        self, queries: tf.Tensor, weights: keras.Variable, labels: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        weights = tf.convert_to_tensor(weights)
        method = self.method
        if method == "auto":
            batch = queries.shape[0] or 128
            plain = batch * weights.shape[0] <= PLAIN_LIMIT
            method = "plain" if plain else "chunked"
        if method == "plain":
            return plain_split(queries, weights, labels, self.centers)
        return chunked_split(queries, weights, labels, self.centers, chunk_size=self.chunk_size)


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
