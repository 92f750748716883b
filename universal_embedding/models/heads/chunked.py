"""`softmax_terms` without ever holding a `[batch, classes]` matrix.

The forward pass loops over chunks of classes and keeps two numbers per image; the backward pass
loops again and recomputes the logits of each chunk.
"""

import tensorflow as tf

from universal_embedding.models.heads.softmax import NEG_INF, SoftmaxTerms, class_logits
from universal_embedding.private_apis import in_xla_context


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

    def slice_chunk(weights: tf.Tensor, first: tf.Tensor, size: int) -> tuple:
        """The weight rows of a chunk, its `[B, size]` mask of targets, and its bias."""
        rows = tf.slice(weights, (first * num_subcenters, 0), (size * num_subcenters, dim))
        is_target = tf.range(size)[None] == (labels - first)[:, None]
        return rows, is_target, None if bias is None else tf.slice(bias, (first,), (size,))

    @tf.custom_gradient
    def compute_terms(queries: tf.Tensor, weights: tf.Tensor) -> tuple:
        def forward(
            first: tf.Tensor, size: int, target_logit: tf.Tensor, *sums: tf.Tensor
        ) -> tuple:
            rows, is_target, bias = slice_chunk(weights, first, size)
            logits = class_logits(queries, rows, num_subcenters)
            target_logit += tf.reduce_sum(tf.where(is_target, logits, 0.0), axis=1)
            logits = tf.where(is_target, NEG_INF, logits if bias is None else logits + bias)
            max_logit, total = sums
            new_max = tf.maximum(max_logit, tf.reduce_max(logits, axis=1))
            total *= tf.exp(max_logit - new_max)
            total += tf.reduce_sum(tf.exp(logits - new_max[:, None]), axis=1)
            return target_logit, new_max, total

        zeros = tf.zeros_like(queries[:, 0])
        _, *state = tf.while_loop(
            lambda i, *_: i < num_full,
            lambda i, *state: (i + 1, *forward(i * chunk_size, chunk_size, *state)),
            (0, zeros, zeros + NEG_INF, zeros),
            parallel_iterations=1,
        )
        if remainder:
            state = forward(tf.constant(num_full * chunk_size), remainder, *state)
        target_logit, max_logit, total = state
        rest_logsumexp = max_logit + tf.math.log(total)

        def backward(first: tf.Tensor, size: int, d_target: tf.Tensor, d_rest: tf.Tensor) -> list:
            rows, is_target, bias = slice_chunk(weights, first, size)
            with tf.GradientTape() as tape:
                tape.watch((queries, rows))
                logits = class_logits(queries, rows, num_subcenters)
            exponents = logits - rest_logsumexp[:, None]
            exponents = exponents if bias is None else exponents + bias
            d_logits = tf.exp(exponents) * d_rest[:, None]
            d_logits = tf.where(is_target, d_target[:, None], d_logits)
            return tape.gradient(logits, (queries, rows), d_logits)

        def gradient(*upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            def add(i: tf.Tensor, size: int, d_queries: tf.Tensor, d_weights: tf.Tensor) -> tuple:
                d_chunk, d_rows = backward(i * chunk_size, size, *upstream)
                if size < chunk_size:
                    d_rows = tf.pad(d_rows, ((0, (chunk_size - size) * num_subcenters), (0, 0)))
                d_weights = _write(d_weights, i, d_rows)
                return d_queries + d_chunk, d_weights

            shape = (num_full + (remainder > 0), chunk_size * num_subcenters, dim)
            buffer = _gradient_buffer(*shape)
            _, *state = tf.while_loop(
                lambda i, *_: i < num_full,
                lambda i, *state: (i + 1, *add(i, chunk_size, *state)),
                (tf.constant(0), tf.zeros_like(queries), buffer),
                parallel_iterations=1,
            )
            if remainder:
                state = add(tf.constant(num_full), remainder, *state)
            d_queries, d_weights = state
            if isinstance(d_weights, tf.TensorArray):
                d_weights = d_weights.stack()
            d_weights = tf.reshape(d_weights, (-1, dim))
            return d_queries, d_weights[: num_classes * num_subcenters]

        return (target_logit, rest_logsumexp), gradient

    return compute_terms(queries, weights)


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
