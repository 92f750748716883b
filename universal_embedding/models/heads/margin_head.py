"""Classifier head: the class weights of every domain, and the loss of a batch."""

from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from universal_embedding.errors import UserError
from universal_embedding.models.heads.chunked import chunked_softmax_terms
from universal_embedding.models.heads.sampled import gather_class_weights, sample_classes
from universal_embedding.models.heads.sharding import (
    ShardedVariable,
    all_gather,
    gather_batch,
    local_classes,
    local_slice,
    merge_shards,
    shard_size,
)
from universal_embedding.models.heads.softmax import (
    MARGIN_TYPES,
    SoftmaxTerms,
    apply_margin,
    l2_normalize,
    softmax_terms,
)

SOFTMAX_IMPLS = ("auto", "full", "chunked")
MAX_FULL_LOGITS = 500_000  # batch x classes up to which the full matrix is about as fast as chunks
CHUNK_LOGITS = 2**20  # batch x classes of a chunk: 4 MB, fast and still small
MAX_CHUNK_SIZE = 2**14  # classes of a chunk: longer sums in float32 lose digits


class MarginHead(keras.layers.Layer):
    """Cosine softmax with a margin over the classes of several domains; returns losses.

    The loss of an image is the cross-entropy of `scale * cos t` over its classes, with a margin on
    the target's cosine (see `softmax.apply_margin`). With `joint` the classes are those of all
    domains, in one variable `[C * num_subcenters, D]`; otherwise those of the image's own domain,
    in one variable per domain, and a batch costs only the domains it contains. All in float32,
    whatever the dtype policy.

    Args:
        num_classes_by_domain: Number of classes of each domain, in the order of the domain ids.
        dim: D, the size of the embeddings.
        margin_type: `none` (NormFace), `cosface` or `arcface`.
        margin: One number, or `[classes]` numbers by domain (see `softmax.class_margins`).
        scale: Factor of the cosines.
        num_subcenters: Weight rows per class; the nearest one counts (sub-center ArcFace, ECCV
            2020).
        joint: One softmax over the classes of all domains instead of one per domain.
        softmax_impl: `full` (the whole `[B, C]` matrix), `chunked` (never holds it), or `auto`:
            full up to `MAX_FULL_LOGITS` numbers in that matrix.
        chunk_size: Classes per chunk; None chooses it so that a chunk has `CHUNK_LOGITS` logits.
        num_sampled_classes: Classes sampled at each step besides the batch's own, for a softmax
            over more classes than that; None uses all classes. See `sampled`.
        num_shards: Number of replicas over which each variable's classes are sharded: that of the
            strategy in whose scope the head is created, or 1. See `sharding`.
        initializer: Weight initializer. Only the direction of a row matters, but its length sets
            how far a step rotates it; by default rows have length 1 on average, whatever D and C.

    Attributes:
        class_weights: One variable if `joint`, otherwise one per domain.

    Raises:
        UserError: An argument is not among its choices, an ArcFace margin is not an angle, or the
            margins do not match the classes.
    """

    def __init__(
        self,
        num_classes_by_domain: Mapping[str, int],
        dim: int = 64,
        margin_type: str = "arcface",
        margin: float | Mapping[str, Sequence[float] | np.ndarray] = 0.3,
        scale: float = 30.0,
        num_subcenters: int = 1,
        joint: bool = False,
        softmax_impl: str = "auto",
        chunk_size: int | None = None,
        num_sampled_classes: int | None = None,
        num_shards: int = 1,
        initializer: keras.initializers.Initializer | None = None,
        name: str = "head",
    ) -> None:
        super().__init__(name=name, dtype="float32")
        _require("margin_type", margin_type, MARGIN_TYPES)
        _require("softmax_impl", softmax_impl, SOFTMAX_IMPLS)
        self.num_classes_by_domain = dict(num_classes_by_domain)
        self.margin_type = margin_type
        self.scale = scale
        self.num_subcenters = num_subcenters
        self.joint = joint
        self.softmax_impl = softmax_impl
        self.chunk_size = chunk_size
        self.num_sampled_classes = num_sampled_classes
        self.num_shards = num_shards
        if num_shards > 1 and num_sampled_classes:
            raise UserError(
                f"MarginHead got num_shards={num_shards} and num_sampled_classes="
                f"{num_sampled_classes}: every shard would sample so many, whatever their number; "
                "choose one of the two"
            )
        counts = list(self.num_classes_by_domain.values())
        self._offsets = np.cumsum([0, *counts[:-1]], dtype=np.int32)
        self._margins = _concatenate_margins(margin, self.num_classes_by_domain)
        if (
            margin_type == "arcface"
            and not 0 <= np.min(self._margins) <= np.max(self._margins) <= np.pi
        ):
            raise UserError(
                f"MarginHead got an ArcFace margin of {np.max(np.abs(self._margins))}: it is an "
                "angle in radians, from 0 to pi"
            )
        self._groups = {"joint": sum(counts)} if joint else self.num_classes_by_domain
        initializer = initializer or keras.initializers.RandomNormal(stddev=dim**-0.5)
        self.class_weights = []
        for group, num_classes in self._groups.items():
            num_rows, group_initializer = num_classes * num_subcenters, initializer.clone()
            name = f"classes_{group}"
            if num_shards > 1:
                size = shard_size(num_classes, num_shards) * num_subcenters
                weights = ShardedVariable(group_initializer, num_rows, size, dim, name)
            else:
                weights = self.add_weight(
                    shape=(num_rows, dim), initializer=group_initializer, name=name
                )
            self.class_weights.append(weights)
        self.built = True

    def call(
        self,
        embeddings: tf.Tensor,
        labels: tf.Tensor,
        domains: tf.Tensor,
        scale: tf.Tensor | None = None,
        margin_scale: tf.Tensor | float = 1.0,
        margin_shift: tf.Tensor | float = 0.0,
        label_smoothing: float = 0.0,
        seed: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Computes the loss of each image.

        Args:
            embeddings: `[B, D]` of any float dtype and any length, or a prefix `[B, d]` of them,
                which is compared with the first d columns of the class weights.
            labels: `[B]` int32, the class within its domain.
            domains: `[B]` int32, positions in `num_classes_by_domain`.
            scale: Replaces the head's own scale, where a schedule changes it.
            margin_scale: Factor of the margins, where a schedule changes them.
            margin_shift: Added to them then.
            label_smoothing: Share of the target that is spread evenly over all classes (arXiv
                1512.00567); not with sub-centers or sampled classes.
            seed: `[2]` int32 seed of the sampled classes, a new one at each step; only with
                `num_sampled_classes`.

        Returns:
            `[B]` float32.

        Raises:
            UserError: `num_sampled_classes` is set and there is no seed.
        """
        if self.num_sampled_classes and seed is None:
            raise UserError(
                f"MarginHead with num_sampled_classes={self.num_sampled_classes} was called "
                "without a seed: pass one derived from the run's seed and its step"
            )
        scale = tf.cast(self.scale if scale is None else scale, tf.float32)
        queries = l2_normalize(tf.cast(embeddings, tf.float32)) * scale
        labels, domains = tf.cast(labels, tf.int32), tf.cast(domains, tf.int32)
        ids = tf.gather(self._offsets, domains) + labels
        labels = ids if self.joint else labels
        local_batch, local_queries, local_domains = ids.shape[0] or tf.size(ids), queries, domains
        if self.num_shards > 1:
            queries, labels, domains = (
                gather_batch(values, self.num_shards) for values in (queries, labels, domains)
            )
        batch = (labels, domains)
        if self.num_sampled_classes:
            batch = tuple(map(all_gather, batch))
        target_logit, rest_logsumexp = self._softmax_terms(queries, labels, domains, batch, seed)
        if self.num_shards > 1:
            target_logit, rest_logsumexp = merge_shards(
                target_logit, rest_logsumexp, self.num_shards, local_batch
            )
        margin = self._margins if np.ndim(self._margins) == 0 else tf.gather(self._margins, ids)
        margin = margin * margin_scale + margin_shift
        logit = scale * apply_margin(target_logit / scale, margin, self.margin_type)
        loss = tf.math.softplus(rest_logsumexp - logit)
        if not label_smoothing:
            return loss
        sums, counts = self._logit_sums(local_queries, local_domains, domains)
        return loss + label_smoothing * (logit - (sums - target_logit + logit) / counts)

    def updated_groups(self, domains: tf.Tensor) -> tf.Tensor:
        """Marks the `class_weights` that a batch of these `[B]` domains trains: `[len]` bool."""
        if self.joint:
            return tf.ones([1], tf.bool)
        groups = tf.range(len(self.class_weights))[:, None]
        return tf.reduce_any(groups == tf.cast(domains, tf.int32)[None], axis=1)

    def _logit_sums(
        self, queries: tf.Tensor, domains: tf.Tensor, batch_domains: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """`[b]` each: sum of an image's logits without margin, and number of its classes.

        `batch_domains` are those of all replicas where their shards have to be summed.
        """
        if self.num_subcenters > 1 or self.num_sampled_classes:
            raise UserError(
                "MarginHead has no label smoothing with sub-centers or sampled classes, which "
                "needs the logits of all classes: set label_smoothing to 0"
            )
        sizes = tf.constant(list(self._groups.values()), tf.float32)
        groups, batch_groups = (
            tf.zeros_like(d) if self.joint else d for d in (domains, batch_domains)
        )
        rows = []
        for group, weights in enumerate(self.class_weights):

            def sum_rows(weights: keras.Variable = weights) -> tf.Tensor:
                rows = _first_columns(tf.convert_to_tensor(weights), queries)
                return tf.reduce_sum(l2_normalize(rows), axis=0)

            zeros = tf.zeros(queries.shape[1])
            rows.append(tf.cond(tf.reduce_any(batch_groups == group), sum_rows, lambda z=zeros: z))
        sums = tf.stack(rows)
        if self.num_shards > 1:
            context = tf.distribute.get_replica_context()
            sums = context.all_reduce(tf.distribute.ReduceOp.SUM, sums)
        sums = tf.reduce_sum(queries * tf.gather(sums, groups), axis=1)
        return sums, tf.gather(sizes, groups)

    @property
    def uses_whole_batch(self) -> bool:
        """Whether the loss needs the examples of other replicas; see `training.losses.Loss`."""
        return self.num_shards > 1 or bool(self.num_sampled_classes)

    def _softmax_terms(
        self,
        queries: tf.Tensor,
        labels: tf.Tensor,
        domains: tf.Tensor,
        batch: tuple[tf.Tensor, ...],
        seed: tf.Tensor | None,
    ) -> SoftmaxTerms:
        """Target logit and log-sum-exp of the rest, over this replica's classes.

        `batch` holds the labels and domains of all replicas, whose classes are never sampled away.
        """
        batch_labels, batch_domains = batch
        if len(self.class_weights) == 1:
            return self._group_terms(0, queries, labels, batch_labels, seed)
        target_logit = rest_logsumexp = tf.zeros_like(queries[:, 0])
        for group in range(len(self.class_weights)):
            in_group = domains == group

            def group_terms(group: int = group, in_group: tf.Tensor = in_group) -> SoftmaxTerms:
                group_labels = tf.where(in_group, labels, -1)
                in_batch = tf.where(batch_domains == group, batch_labels, -1)
                return self._group_terms(group, queries, group_labels, in_batch, seed)

            zeros = tf.zeros_like(target_logit)
            terms = tf.cond(tf.reduce_any(in_group), group_terms, lambda z=zeros: (z, z))
            target_logit = tf.where(in_group, terms[0], target_logit)
            rest_logsumexp = tf.where(in_group, terms[1], rest_logsumexp)
        return target_logit, rest_logsumexp

    def _group_terms(
        self,
        group: int,
        queries: tf.Tensor,
        labels: tf.Tensor,
        batch_labels: tf.Tensor,
        seed: tf.Tensor | None,
    ) -> SoftmaxTerms:
        """The terms over one variable's classes; label -1 means that the class is elsewhere."""
        weights = tf.convert_to_tensor(self.class_weights[group])
        num_classes, bias = weights.shape[0] // self.num_subcenters, None
        if self.num_shards > 1:
            total = list(self._groups.values())[group]
            labels, bias = local_classes(labels, total, self.num_shards)
        if self.num_sampled_classes and self.num_sampled_classes < num_classes:
            group_seed = tf.random.experimental.stateless_fold_in(seed, group)
            ids, bias, positions = sample_classes(
                batch_labels, num_classes, self.num_sampled_classes, group_seed
            )
            labels = local_slice(positions, labels.shape[0] or tf.size(labels))
            weights = gather_class_weights(weights, ids, self.num_subcenters)
            num_classes = ids.shape[0]
        weights = _first_columns(weights, queries)
        batch = queries.shape[0] or 128
        is_small = batch * num_classes <= MAX_FULL_LOGITS
        if self.softmax_impl == "full" or (self.softmax_impl == "auto" and is_small):
            return softmax_terms(queries, weights, labels, self.num_subcenters, bias)
        chunk_size = self.chunk_size or min(max(256, CHUNK_LOGITS // batch), MAX_CHUNK_SIZE)
        return chunked_softmax_terms(
            queries, weights, labels, self.num_subcenters, bias, chunk_size
        )


def _first_columns(weights: tf.Tensor, queries: tf.Tensor) -> tf.Tensor:
    """As many columns of the class weights as the embeddings have."""
    dim = queries.shape[1]
    return weights if weights.shape[1] == dim else weights[:, :dim]


def _require(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise UserError(f"MarginHead got {name}={value!r}: choose one of {', '.join(allowed)}")


def _concatenate_margins(
    margin: float | Mapping[str, Sequence[float] | np.ndarray],
    num_classes_by_domain: Mapping[str, int],
) -> np.ndarray:
    """A scalar, or the margins of the classes of all domains in one array."""
    if not isinstance(margin, Mapping):
        return np.asarray(margin, np.float32)
    for domain, num_classes in num_classes_by_domain.items():
        num_margins = len(margin.get(domain, ()))
        if num_margins != num_classes:
            raise UserError(
                f"MarginHead got {num_margins} margins for domain {domain!r} "
                f"of {num_classes} classes: pass one margin per class, or one number for all"
            )
    return np.concatenate(
        [np.asarray(margin[domain], np.float32) for domain in num_classes_by_domain]
    )
