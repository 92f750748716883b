"""Tests of the chunked softmax against its formula and its gradient in float64."""

import numpy as np
import pytest
import tensorflow as tf

from universal_embedding.models.heads.chunked import chunked_softmax_terms

BATCH, DIM = 6, 5
LABELS = np.int32([0, 1, -1, 6, 0, 3])  # -1: the class is not among these


def oracle(queries, weights, num_subcenters, bias, d_target, d_rest):
    """Both terms and both gradients, from all logits at once."""
    queries, weights = np.float64(queries), np.float64(weights)
    lengths = np.linalg.norm(weights, axis=1, keepdims=True)
    units = weights / lengths
    scores = (queries @ units.T).reshape(len(queries), -1, num_subcenters)
    logits, nearest = scores.max(axis=2), scores.argmax(axis=2)
    is_target = np.arange(logits.shape[1]) == LABELS[:, None]
    target = np.where(LABELS >= 0, (logits * is_target).sum(axis=1), 0.0)
    rest = np.where(is_target, -np.inf, logits + bias)
    peak = rest.max(axis=1, keepdims=True)
    logsumexp = peak[:, 0] + np.log(np.exp(rest - peak).sum(axis=1))
    d_logits = d_rest[:, None] * np.exp(rest - logsumexp[:, None]) + d_target[:, None] * is_target
    d_scores = np.zeros_like(scores)
    np.put_along_axis(d_scores, nearest[..., None], d_logits[..., None], axis=2)
    d_scores = d_scores.reshape(len(queries), -1)
    d_units = d_scores.T @ queries
    along = (d_units * units).sum(axis=1, keepdims=True)
    return target, logsumexp, d_scores @ units, (d_units - units * along) / lengths


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("scale", [1.0, 30.0, 64.0, 300.0])
@pytest.mark.parametrize("num_subcenters", [1, 3])
@pytest.mark.parametrize("biased", [False, True])
def test_terms_and_gradients_equal_the_formula(biased, num_subcenters, scale, jit):
    rng = np.random.default_rng(int(scale))
    queries = rng.normal(size=(BATCH, DIM))
    queries = np.float32(scale * queries / np.linalg.norm(queries, axis=1, keepdims=True))
    weights = np.float32(rng.normal(size=(7 * num_subcenters, DIM)))
    weights[num_subcenters:] -= 9 * queries[0] / scale  # far from the first, beside its own class
    bias = np.float32(rng.normal(size=7) * biased)
    bias[4] -= 1e30 * biased  # a class that does not exist
    d_target = np.float32(rng.normal(size=BATCH)) * (LABELS >= 0)
    d_rest = np.float32(rng.normal(size=BATCH))  # of both signs
    d_rest[3] = 0

    @tf.function(jit_compile=jit)
    def compute(queries, weights):
        with tf.GradientTape() as tape:
            tape.watch((queries, weights))
            tensor = tf.constant(bias) if biased else None
            terms = chunked_softmax_terms(queries, weights, LABELS, num_subcenters, tensor, 3)
        return *terms, *tape.gradient(terms, (queries, weights), (d_target, d_rest))

    arguments = tf.constant(queries), tf.constant(weights)
    actual = compute(*arguments)
    expected = oracle(queries, weights, num_subcenters, bias, d_target, d_rest)
    for name, a, e in zip(
        ("target", "rest", "d_queries", "d_weights"), actual, expected, strict=True
    ):
        # a float32 logit of this scale is exact to scale x 6e-8, and so is an exponent
        tolerance = 1e-6 * max(scale, 1) * max(np.abs(e).max(), 1)
        np.testing.assert_allclose(a, e, rtol=1e-6 * max(scale, 1), atol=tolerance, err_msg=name)
    for a, again in zip(actual, compute(*arguments), strict=True):
        np.testing.assert_array_equal(a, again)  # what is written in place is written once


def test_no_other_class_has_no_part():
    queries, weights = tf.constant([[30.0, 0.0]]), tf.Variable([[3.0, 4.0]])
    with tf.GradientTape() as tape:
        target, rest = chunked_softmax_terms(queries, weights.value(), tf.constant([0]))
        loss = tf.reduce_sum(tf.math.softplus(rest - target))
    assert target.numpy()[0] == pytest.approx(18) and rest.numpy()[0] == -1e30 and loss.numpy() == 0
    np.testing.assert_array_equal(tape.gradient(loss, weights), [[0, 0]])
