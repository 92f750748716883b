"""Tests of MarginHead against naive loops in float64."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from universal_embedding.errors import UserError
from universal_embedding.models.heads import MarginHead

NUM_CLASSES = {"cars": 7, "sop": 23, "met": 11}
BATCH, DIM = 12, 8


def naive_losses(head, weights, embeddings, labels, domains, margin, scale):
    """The papers' formulas, one image and one class at a time."""
    losses = []
    for x, label, domain in zip(np.float64(embeddings), labels, domains, strict=True):
        start = sum(list(NUM_CLASSES.values())[:domain]) if head.joint else 0
        rows = np.float64(weights[0 if head.joint else domain]).reshape(
            -1, head.num_subcenters, len(x)
        )
        logits = []
        for c, subcenters in enumerate(rows):
            cosine = max(x @ w / np.linalg.norm(x) / np.linalg.norm(w) for w in subcenters)
            if c == start + label:
                theta = np.arccos(np.clip(cosine, -1, 1))
                if head.margin_type == "cosface":
                    cosine = np.cos(theta) - margin
                elif head.margin_type == "arcface" and theta + margin <= np.pi:
                    cosine = np.cos(theta + margin)
                elif head.margin_type == "arcface":
                    cosine = np.cos(theta) - margin * np.sin(margin)
            logits.append(scale * cosine)
        losses.append(np.log(np.sum(np.exp(logits))) - logits[start + label])
    return np.array(losses)


def make_batch(seed=0, mixed=True):
    rng = np.random.default_rng(seed)
    domains = rng.integers(0, len(NUM_CLASSES), BATCH) if mixed else np.ones(BATCH, int)
    labels = rng.integers(0, np.array(list(NUM_CLASSES.values()))[domains])
    return np.float32(rng.normal(size=(BATCH, DIM))), np.int32(labels), np.int32(domains)


def make_head(**kwargs):
    keras.utils.set_random_seed(1)
    return MarginHead(NUM_CLASSES, DIM, **{"chunk_size": 4, **kwargs})


def losses_and_gradients(head, embeddings, labels, domains):
    embeddings = tf.constant(embeddings)
    with tf.GradientTape() as tape:
        tape.watch(embeddings)
        losses = head(embeddings, labels, domains)
        total = tf.reduce_sum(losses * tf.range(1.0, BATCH + 1))
    sources = [embeddings, *[w.value for w in head.class_weights]]
    gradients = tape.gradient(total, sources, unconnected_gradients="zero")
    return [losses.numpy(), *[g.numpy() for g in gradients]]


@pytest.fixture(params=["float32", "mixed_bfloat16", "bfloat16"])
def policy(request):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(before)


@pytest.mark.parametrize("softmax_impl", ["full", "chunked"])
@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("margin_type", ["none", "cosface", "arcface"])
def test_losses_equal_the_formulas(policy, margin_type, joint, softmax_impl):
    for num_subcenters, mixed in itertools.product([1, 3], [True, False]):
        head = make_head(
            margin_type=margin_type,
            margin=0.4,
            joint=joint,
            softmax_impl=softmax_impl,
            num_subcenters=num_subcenters,
        )
        assert {w.dtype for w in head.class_weights} == {"float32"}
        inputs = make_batch(mixed=mixed)
        actual = head(*inputs)
        assert actual.dtype == tf.float32
        weights = [w.numpy() for w in head.class_weights]
        np.testing.assert_allclose(
            actual, naive_losses(head, weights, *inputs, 0.4, 30.0), 2e-5, 1e-5
        )


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("num_subcenters", [1, 2])
def test_gradients_match_finite_differences(joint, num_subcenters):
    head = make_head(joint=joint, softmax_impl="chunked", num_subcenters=num_subcenters, scale=8.0)
    inputs = make_batch(3)
    _, d_embeddings, *d_weights = losses_and_gradients(head, *inputs)
    weights = [np.float64(w.numpy()) for w in head.class_weights]
    factors = np.arange(1, BATCH + 1)

    def total(embeddings, weights):
        return naive_losses(head, weights, embeddings, *inputs[1:], 0.3, 8.0) @ factors

    step = 1e-5
    for i, j in itertools.product(range(BATCH), range(0, DIM, 3)):
        moved = np.float64(inputs[0])
        moved[i, j] += step
        ahead = total(moved, weights)
        moved[i, j] -= 2 * step
        assert d_embeddings[i, j] == pytest.approx(
            (ahead - total(moved, weights)) / (2 * step), rel=1e-3, abs=2e-3
        )
    for w, d in zip(weights, d_weights, strict=True):
        for i in range(len(w)):
            original = w[i, 2]
            w[i, 2] = original + step
            ahead = total(inputs[0], weights)
            w[i, 2] = original - step
            behind = total(inputs[0], weights)
            w[i, 2] = original
            assert d[i, 2] == pytest.approx((ahead - behind) / (2 * step), rel=1e-3, abs=2e-3)


@pytest.mark.parametrize(
    ("joint", "num_subcenters", "jit"),
    [(True, 1, False), (False, 3, False), (True, 3, True), (False, 1, True)],
)
def test_chunked_equals_full(joint, num_subcenters, jit):
    inputs = make_batch(2)
    results = []
    for softmax_impl in ["full", "chunked"]:
        head = make_head(joint=joint, softmax_impl=softmax_impl, num_subcenters=num_subcenters)
        compute = tf.function(
            lambda *inputs, head=head: tape_gradients(head, *inputs), jit_compile=jit
        )
        results.append([t.numpy() for t in compute(*map(tf.constant, inputs))])
    for full, chunked in zip(*results, strict=True):
        np.testing.assert_allclose(full, chunked, rtol=1e-5, atol=1e-5 * np.abs(full).max())


def tape_gradients(head, embeddings, labels, domains):
    with tf.GradientTape() as tape:
        tape.watch(embeddings)
        losses = head(embeddings, labels, domains)
    sources = [embeddings, *[w.value for w in head.class_weights]]
    return [losses, *tape.gradient(losses, sources, unconnected_gradients="zero")]


def test_argument_error_names_the_value():
    with pytest.raises(UserError, match="arcfase"):
        make_head(margin_type="arcfase")
    with pytest.raises(UserError, match="'met' of 11"):
        make_head(margin={"cars": [0.1] * 7, "sop": [0.1] * 23, "met": [0.1]})
