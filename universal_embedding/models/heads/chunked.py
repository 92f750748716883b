"""The same split as `softmax.plain_split`, never holding a `[batch, classes]` matrix.

The forward pass goes over chunks of classes and keeps two numbers per picture; the backward pass
goes over them again and recomputes each chunk's logits.
"""

import tensorflow as tf
from tensorflow.python.ops import control_flow_util

from universal_embedding.models.heads.softmax import NEVER, Split, class_logits


def chunked_split(
    queries: tf.Tensor,
    weights: tf.Tensor,
    labels: tf.Tensor,
    centers: int = 1,
    bias: tf.Tensor | None = None,
    chunk_size: int = 8192,
) -> Split:
    """`softmax.plain_split`, its arguments and results, over `chunk_size` classes at a time."""
    classes, dimension = weights.shape[0] // centers, weights.shape[1]
    chunk_size = min(chunk_size, classes)
    whole, rest = divmod(classes, chunk_size)

    def chunk(weights: tf.Tensor, first: tf.Tensor, size: int) -> tuple:
        """The chunk's rows, which of `[B, size]` are targets, and its bias."""
        rows = tf.slice(weights, (first * centers, 0), (size * centers, dimension))
        is_target = tf.range(size)[None] == (labels - first)[:, None]
        return rows, is_target, None if bias is None else tf.slice(bias, (first,), (size,))

    @tf.custom_gradient
    def split(queries: tf.Tensor, weights: tf.Tensor) -> tuple:
        def forward(first: tf.Tensor, size: int, target: tf.Tensor, *sums: tf.Tensor) -> tuple:
            rows, is_target, bias = chunk(weights, first, size)
            logits = class_logits(queries, rows, centers)
            target += tf.reduce_sum(tf.where(is_target, logits, 0.0), axis=1)
            logits = tf.where(is_target, NEVER, logits if bias is None else logits + bias)
            top, total = sums
            new_top = tf.maximum(top, tf.reduce_max(logits, axis=1))
            total *= tf.exp(top - new_top)
            total += tf.reduce_sum(tf.exp(logits - new_top[:, None]), axis=1)
            return target, new_top, total

        zeros = tf.zeros_like(queries[:, 0])
        _, *state = tf.while_loop(
            lambda i, *_: i < whole,
            lambda i, *state: (i + 1, *forward(i * chunk_size, chunk_size, *state)),
            (0, zeros, zeros + NEVER, zeros),
            parallel_iterations=1,
        )
        if rest:
            state = forward(tf.constant(whole * chunk_size), rest, *state)
        target, top, total = state
        others = top + tf.math.log(total)

        def backward(first: tf.Tensor, size: int, d_target: tf.Tensor, d_others: tf.Tensor) -> list:
            rows, is_target, bias = chunk(weights, first, size)
            with tf.GradientTape() as tape:
                tape.watch((queries, rows))
                logits = class_logits(queries, rows, centers)
            exponents = logits - others[:, None]
            exponents = exponents if bias is None else exponents + bias
            d_logits = tf.exp(exponents) * d_others[:, None]
            d_logits = tf.where(is_target, d_target[:, None], d_logits)
            return tape.gradient(logits, (queries, rows), d_logits)

        def gradient(*upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            def add(i: tf.Tensor, size: int, d_queries: tf.Tensor, d_weights: tf.Tensor) -> tuple:
                d_chunk, d_rows = backward(i * chunk_size, size, *upstream)
                if size < chunk_size:
                    d_rows = tf.pad(d_rows, ((0, (chunk_size - size) * centers), (0, 0)))
                d_weights = _write(d_weights, i, d_rows)
                return d_queries + d_chunk, d_weights

            shape = (whole + (rest > 0), chunk_size * centers, dimension)
            buffer = _buffer(*shape)
            _, *state = tf.while_loop(
                lambda i, *_: i < whole,
                lambda i, *state: (i + 1, *add(i, chunk_size, *state)),
                (tf.constant(0), tf.zeros_like(queries), buffer),
                parallel_iterations=1,
            )
            if rest:
                state = add(tf.constant(whole), rest, *state)
            d_queries, d_weights = state
            if isinstance(d_weights, tf.TensorArray):
                d_weights = d_weights.stack()
            d_weights = tf.reshape(d_weights, (-1, dimension))
            return d_queries, d_weights[: classes * centers]

        return (target, others), gradient

    return split(queries, weights)


def _buffer(pieces: int, rows: int, dimension: int) -> tf.Tensor | tf.TensorArray:
    """Where the pieces of the weights' gradient are gathered.

    XLA turns a `TensorArray` into updates in place. Elsewhere it would hold the gradient twice when
    it is stacked, and `InplaceUpdate`, which XLA lacks, needs a buffer of its own: `Empty` is
    stateful, so never folded into a constant or merged with another.
    """
    if control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()):
        return tf.TensorArray(tf.float32, pieces, element_shape=(rows, dimension))
    return tf.raw_ops.Empty(shape=(pieces, rows, dimension), dtype=tf.float32, init=False)


def _write(
    buffer: tf.Tensor | tf.TensorArray, i: tf.Tensor, rows: tf.Tensor
) -> tf.Tensor | tf.TensorArray:
    if isinstance(buffer, tf.TensorArray):
        return buffer.write(i, rows)
    return tf.raw_ops.InplaceUpdate(x=buffer, i=i[None], v=rows[None])
