"""The same split as `softmax.plain_split`, never holding a `[batch, classes]` matrix.

The forward pass goes over chunks of classes and keeps two numbers per picture; the backward pass
goes over them again and recomputes each chunk's logits.
"""

import tensorflow as tf

from universal_embedding.models.heads.softmax import NEVER, class_logits

DEFAULT_CHUNK_SIZE = 4096


def chunked_split(
    queries: tf.Tensor,
    weights: tf.Tensor,
    labels: tf.Tensor,
    centers: int = 1,
    bias: tf.Tensor | None = None,
    chunk_size: int = DEFAULT_CHUNK_SIZE,
) -> tuple[tf.Tensor, tf.Tensor]:
    """`softmax.plain_split` over `chunk_size` classes at a time; its arguments and results."""
    classes = weights.shape[0] // centers
    if bias is None:
        bias = tf.zeros([classes])
    chunk_size = min(chunk_size, classes)
    whole = classes // chunk_size

    def chunk(first: tf.Tensor, size: int) -> tuple[tf.Tensor, tf.Tensor]:
        rows = tf.slice(weights, (first * centers, 0), (size * centers, weights.shape[1]))
        return rows, tf.slice(bias, (first,), (size,))

    @tf.custom_gradient
    def split(queries: tf.Tensor, weights: tf.Tensor) -> tuple:
        def forward(first, size, target, top, total):
            rows, chunk_bias = chunk(first, size)
            logits = class_logits(queries, rows, centers)
            is_target = tf.range(size)[None] == labels[:, None] - first
            target += tf.reduce_sum(tf.where(is_target, logits, 0.0), axis=1)
            logits = tf.where(is_target, NEVER, logits + chunk_bias)
            new_top = tf.maximum(top, tf.reduce_max(logits, axis=1))
            total *= tf.exp(top - new_top)
            total += tf.reduce_sum(tf.exp(logits - new_top[:, None]), axis=1)
            return target, new_top, total

        zeros = tf.zeros_like(queries[:, 0])
        state = (zeros, zeros + NEVER, zeros)
        _, *state = tf.while_loop(
            lambda i, *_: i < whole,
            lambda i, *state: (i + 1, *forward(i * chunk_size, chunk_size, *state)),
            (0, *state),
            parallel_iterations=1,
        )
        rest = classes - whole * chunk_size
        if rest:
            state = forward(tf.constant(whole * chunk_size), rest, *state)
        target, top, total = state
        others = top + tf.math.log(total)

        def gradient(d_target: tf.Tensor, d_others: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            def backward(first, size):
                rows, chunk_bias = chunk(first, size)
                with tf.GradientTape() as tape:
                    tape.watch((queries, rows))
                    logits = class_logits(queries, rows, centers)
                is_target = tf.range(size)[None] == labels[:, None] - first
                share = tf.exp(logits + chunk_bias - others[:, None]) * d_others[:, None]
                d_logits = tf.where(is_target, d_target[:, None], share)
                return tape.gradient(logits, (queries, rows), d_logits)

            def step(i, d_queries, d_weights):
                d_q, d_rows = backward(i * chunk_size, chunk_size)
                return i + 1, d_queries + d_q, d_weights.write(i, d_rows)

            width = weights.shape[1]
            _, d_queries, d_weights = tf.while_loop(
                lambda i, *_: i < whole,
                step,
                (
                    0,
                    tf.zeros_like(queries),
                    tf.TensorArray(tf.float32, whole, element_shape=(chunk_size * centers, width)),
                ),
                parallel_iterations=1,
            )
            d_weights = tf.reshape(d_weights.stack(), (whole * chunk_size * centers, width))
            if rest:
                d_q, d_rows = backward(tf.constant(whole * chunk_size), rest)
                d_queries += d_q
                d_weights = tf.concat((d_weights, d_rows), axis=0)
            return d_queries, d_weights

        return (target, others), gradient

    return split(queries, weights)
