"""`softmax_terms` without ever holding a `[batch, classes]` matrix.

Both passes loop over chunks of classes: the forward pass keeps one sum per image, the backward pass
recomputes the logits of each chunk. Matrices of a chunk are `[classes, batch]`, because whatever is
added per image then comes with the matrix product for free: the exponential is the only other pass
over the logits. Images touch their own class in single elements instead of masks.
"""

from collections.abc import Callable

import tensorflow as tf

from universal_embedding.models.heads.sampled import gather_class_weights
from universal_embedding.models.heads.softmax import NEG_INF, SoftmaxTerms
from universal_embedding.private_apis import in_xla_context

# exp(x) is a normal float32 for x in [-87, 88]. A logit is in [-length, length] of its query: up to
# this length all logits fit if they are moved below TOP, with room to sum 10^14 classes.
MAX_LENGTH, TOP = 70.0, 55.0


def chunked_softmax_terms(
    queries: tf.Tensor,
    weights: tf.Tensor,
    labels: tf.Tensor,
    num_subcenters: int = 1,
    bias: tf.Tensor | None = None,
    chunk_size: int = 8192,
) -> SoftmaxTerms:
    """Same arguments and results as `softmax.softmax_terms`, `chunk_size` classes at a time."""
    num_classes, dim = weights.shape[0] // num_subcenters, weights.shape[1]
    chunk_size = min(chunk_size, num_classes)
    num_full, remainder = divmod(num_classes, chunk_size)

    def loop(body: Callable, *state: tf.Tensor) -> list[tf.Tensor]:
        """Calls `body(chunk, size, *state)` for every chunk of classes."""
        _, *state = tf.while_loop(
            lambda i, *_: i < num_full,
            lambda i, *state: (i + 1, *body(i, chunk_size, *state)),
            (tf.constant(0), *state),
            parallel_iterations=1,
        )
        return list(body(tf.constant(num_full), remainder, *state) if remainder else state)

    def unit_rows(weights: tf.Tensor, i: tf.Tensor, size: int) -> tuple[tf.Tensor, tf.Tensor]:
        begin = (i * chunk_size * num_subcenters, 0)
        return _normalize(tf.slice(weights, begin, (size * num_subcenters, dim)))

    # TensorFlow's optimizer breaks graphs in which a constant, as the bias may be, is added after
    # `bias_add`; and a shift of -inf before the maximum would make all sub-centers the nearest.
    is_fused = bias is None and num_subcenters == 1

    def product(queries: tf.Tensor, units: tf.Tensor, shift: tf.Tensor) -> tf.Tensor:
        """`[classes * num_subcenters, B]` logits of a chunk, plus `shift` `[B]` if it is fused."""
        logits = tf.matmul(units, queries, transpose_b=True)
        return tf.nn.bias_add(logits, shift) if is_fused else logits

    def class_logits(logits: tf.Tensor, shift: tf.Tensor, i: tf.Tensor, size: int) -> tf.Tensor:
        """`[classes, B]`, each by the nearest sub-center, plus `shift` and the bias."""
        if is_fused:
            return logits
        logits = tf.reduce_max(tf.reshape(logits, (size, num_subcenters, -1)), axis=1)
        if bias is not None:
            shift += tf.slice(bias, [i * chunk_size], [size])[:, None]
        return logits + shift

    def set_targets(matrix: tf.Tensor, i: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
        return _set_rows(matrix, labels - i * chunk_size, values)

    @tf.custom_gradient
    def compute_terms(queries: tf.Tensor, weights: tf.Tensor) -> tuple:
        def add_exponentials(i: tf.Tensor, size: int, total: tf.Tensor) -> list[tf.Tensor]:
            units, _ = unit_rows(weights, i, size)
            logits = class_logits(product(queries, units, -reference), -reference, i, size)
            exponentials = set_targets(tf.exp(logits), i, zeros)
            return [total + _sum(exponentials, axis=0)]

        def add_maximum(i: tf.Tensor, size: int, maximum: tf.Tensor) -> list[tf.Tensor]:
            units, _ = unit_rows(weights, i, size)
            logits = class_logits(product(queries, units, zeros), zeros, i, size)
            logits = set_targets(logits, i, zeros + NEG_INF)
            return [tf.maximum(maximum, tf.reduce_max(logits, axis=0))]

        lengths = tf.norm(queries, axis=1)
        zeros = tf.zeros_like(lengths)
        reference = tf.cond(
            tf.reduce_all(lengths <= MAX_LENGTH),
            lambda: tf.maximum(lengths - TOP, 0.0),
            lambda: loop(add_maximum, zeros + NEG_INF)[0],
        )
        (total,) = loop(add_exponentials, zeros)
        rest_logsumexp = tf.maximum(reference + tf.math.log(total), NEG_INF)
        rows = gather_class_weights(weights, tf.maximum(labels, 0), num_subcenters)
        units = tf.reshape(_normalize(rows)[0], (-1, num_subcenters, dim))
        target_logit = tf.reduce_max(tf.reduce_sum(units * queries[:, None], axis=2), axis=1)
        target_logit = tf.where(labels >= 0, target_logit, 0.0)

        def gradient(d_target: tf.Tensor, d_rest: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            # d_logits = d_rest exp(logits - rest_logsumexp) is an exponential but for the sign.
            sign = tf.where(d_rest < 0, -1.0, 1.0)
            shift = tf.math.log(tf.abs(d_rest)) - rest_logsumexp
            shift = tf.where(rest_logsumexp > NEG_INF, shift, NEG_INF)
            signed_queries = sign[:, None] * queries

            def add(
                i: tf.Tensor, size: int, d_queries: tf.Tensor, d_weights: tf.Tensor
            ) -> list[tf.Tensor]:
                units, inverse = unit_rows(weights, i, size)
                logits = product(queries, units, shift)
                with tf.GradientTape() as tape:
                    tape.watch(logits)
                    nearest = class_logits(logits, shift, i, size)
                d_nearest = set_targets(tf.exp(nearest), i, sign * d_target)
                d_logits = tape.gradient(nearest, logits, d_nearest)
                d_queries += tf.matmul(d_logits, units, transpose_a=True)
                d_units = tf.matmul(d_logits, signed_queries)
                along = _sum(d_units * units, axis=1)
                d_rows = (d_units - units * along) * inverse
                if size < chunk_size:
                    d_rows = tf.pad(d_rows, ((0, (chunk_size - size) * num_subcenters), (0, 0)))
                return [d_queries, _write(d_weights, i, d_rows)]

            shape = (num_full + (remainder > 0), chunk_size * num_subcenters, dim)
            d_queries, d_weights = loop(add, tf.zeros_like(queries), _gradient_buffer(*shape))
            if isinstance(d_weights, tf.TensorArray):
                d_weights = d_weights.stack()
            d_weights = tf.reshape(d_weights, (-1, dim))[: num_classes * num_subcenters]
            return sign[:, None] * d_queries, d_weights

        return (target_logit, rest_logsumexp), gradient

    return compute_terms(queries, weights)


def _normalize(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Rows of length 1, as `l2_normalize` makes them, and the factors `[N, 1]` that do it."""
    square = _sum(tf.square(rows), axis=1)
    nonzero = square > 1e-30
    inverse = tf.where(nonzero, tf.math.rsqrt(tf.where(nonzero, square, 1.0)), 0.0)
    return rows * inverse, inverse


def _sum(matrix: tf.Tensor, axis: int) -> tf.Tensor:
    """Sums `[N, M]` over its columns to `[M]`, or over its rows to `[N, 1]`.

    A product with ones, which is several times as fast as a reduction on CPU. XLA fuses the
    reduction with what comes before it, and would round the factors to bfloat16 on TPU.
    """
    if in_xla_context():
        return tf.reduce_sum(matrix, axis=axis, keepdims=axis == 1)
    if axis == 1:
        return tf.matmul(matrix, tf.ones((matrix.shape[1], 1)))
    return tf.matmul(tf.ones((1, tf.shape(matrix)[0])), matrix)[0]


def _set_rows(matrix: tf.Tensor, rows: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """Sets `matrix[rows[b], b] = values[b]` for each column b whose row is within the matrix.

    In place, except under XLA, which has no such operation but fuses a mask with the passes around.
    Nothing else may use `matrix`.
    """
    size = matrix.shape[0]
    if in_xla_context():
        return tf.where(tf.range(size)[:, None] == rows[None], values[None], matrix)
    batch, is_inside = tf.size(rows), (rows >= 0) & (rows < size)
    places = tf.where(is_inside, rows, 0) * batch + tf.range(batch)
    flat = tf.reshape(matrix, (-1, 1))
    values = tf.where(is_inside, values, tf.gather(flat, places)[:, 0])
    flat = tf.raw_ops.InplaceUpdate(x=flat, i=places, v=values[:, None])
    return tf.reshape(flat, (size, -1))


def _gradient_buffer(num_chunks: int, rows: int, dim: int) -> tf.Tensor | tf.TensorArray:
    """Buffer in which the chunks of the weights' gradient are collected.

    XLA turns a `TensorArray` into updates in place. Elsewhere it would hold the gradient twice when
    it is stacked, and `InplaceUpdate`, which XLA lacks, needs a buffer that nothing else uses:
    `Empty` is stateful, so it is never folded into a constant or merged with another.
    """
    if in_xla_context():
        return tf.TensorArray(tf.float32, num_chunks, element_shape=(rows, dim))
    return tf.raw_ops.Empty(shape=(num_chunks, rows, dim), dtype=tf.float32, init=False)


def _write(
    buffer: tf.Tensor | tf.TensorArray, i: tf.Tensor, rows: tf.Tensor
) -> tf.Tensor | tf.TensorArray:
    if isinstance(buffer, tf.TensorArray):
        return buffer.write(i, rows)
    return tf.raw_ops.InplaceUpdate(x=buffer, i=i[None], v=rows[None])
