"""MarginHead against naive loops in float64."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from universal_embedding.errors import UserError
from universal_embedding.models.heads import MarginHead

CLASSES = {"cars": 7, "sop": 23, "met": 11}
BATCH, DIMENSION = 12, 8


def naive_losses(head, weights, embeddings, labels, domains, margin, scale):
    """The papers' formulas, one picture and one class at a time."""
    losses = []
    for x, label, domain in zip(np.float64(embeddings), labels, domains, strict=True):
        start = sum(list(CLASSES.values())[:domain]) if head.joint else 0
        rows = np.float64(weights[0 if head.joint else domain]).reshape(-1, head.centers, len(x))
        logits = []
        for c, centers in enumerate(rows):
            cosine = max(x @ w / np.linalg.norm(x) / np.linalg.norm(w) for w in centers)
            if c == start + label:
                theta = np.arccos(np.clip(cosine, -1, 1))
                if head.margin_kind == "cosface":
                    cosine = np.cos(theta) - margin
                elif head.margin_kind == "arcface" and theta + margin <= np.pi:
                    cosine = np.cos(theta + margin)
                elif head.margin_kind == "arcface":
                    cosine = np.cos(theta) - margin * np.sin(margin)
            logits.append(scale * cosine)
        losses.append(np.log(np.sum(np.exp(logits))) - logits[start + label])
    return np.array(losses)


def batch(seed=0, mixed=True):
    rng = np.random.default_rng(seed)
    domains = rng.integers(0, len(CLASSES), BATCH) if mixed else np.ones(BATCH, int)
    labels = rng.integers(0, np.array(list(CLASSES.values()))[domains])
    return np.float32(rng.normal(size=(BATCH, DIMENSION))), np.int32(labels), np.int32(domains)


def make(**kwargs):
    keras.utils.set_random_seed(1)
    return MarginHead(CLASSES, DIMENSION, **{"chunk_size": 4, **kwargs})


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


@pytest.mark.parametrize("method", ["plain", "chunked"])
@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("kind", ["none", "cosface", "arcface"])
def test_losses_are_the_formulas(policy, kind, joint, method):
    for centers, mixed in itertools.product([1, 3], [True, False]):
        head = make(margin_kind=kind, margin=0.4, joint=joint, method=method, centers=centers)
        assert {w.dtype for w in head.class_weights} == {"float32"}
        inputs = batch(mixed=mixed)
        got = head(*inputs)
        assert got.dtype == tf.float32
        weights = [w.numpy() for w in head.class_weights]
        np.testing.assert_allclose(got, naive_losses(head, weights, *inputs, 0.4, 30.0), 2e-5, 1e-5)


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("centers", [1, 2])
def test_gradients_by_differences(joint, centers):
    head = make(joint=joint, method="chunked", centers=centers, scale=8.0)
    inputs = batch(3)
    _, d_embeddings, *d_weights = losses_and_gradients(head, *inputs)
    weights = [np.float64(w.numpy()) for w in head.class_weights]
    factors = np.arange(1, BATCH + 1)

    def total(embeddings, weights):
        return naive_losses(head, weights, embeddings, *inputs[1:], 0.3, 8.0) @ factors

    step = 1e-5
    for i, j in itertools.product(range(BATCH), range(0, DIMENSION, 3)):
        moved = np.float64(inputs[0])
        moved[i, j] += step
        ahead = total(moved, weights)
        moved[i, j] -= 2 * step
        assert d_embeddings[i, j] == pytest.approx(
            (ahead - total(moved, weights)) / (2 * step), rel=1e-3, abs=2e-3
        )
    for w, d in zip(weights, d_weights, strict=True):
        for i in range(len(w)):
            kept = w[i, 2]
            w[i, 2] = kept + step
            ahead = total(inputs[0], weights)
            w[i, 2] = kept - step
            behind = total(inputs[0], weights)
            w[i, 2] = kept
            assert d[i, 2] == pytest.approx((ahead - behind) / (2 * step), rel=1e-3, abs=2e-3)


@pytest.mark.parametrize(
    ("joint", "centers", "jit"),
    [(True, 1, False), (False, 3, False), (True, 3, True), (False, 1, True)],
)
def test_chunked_equals_plain(joint, centers, jit):
    inputs = batch(2)
    results = []
    for method in ["plain", "chunked"]:
        head = make(joint=joint, method=method, centers=centers)
        compute = tf.function(
            lambda *inputs, head=head: tape_gradients(head, *inputs), jit_compile=jit
        )
        results.append([t.numpy() for t in compute(*map(tf.constant, inputs))])
    for plain, chunked in zip(*results, strict=True):
        np.testing.assert_allclose(plain, chunked, rtol=1e-5, atol=1e-5 * np.abs(plain).max())


def tape_gradients(head, embeddings, labels, domains):
    with tf.GradientTape() as tape:
        tape.watch(embeddings)
        losses = head(embeddings, labels, domains)
    sources = [embeddings, *[w.value for w in head.class_weights]]
    return [losses, *tape.gradient(losses, sources, unconnected_gradients="zero")]


def test_errors_name_the_value():
    with pytest.raises(UserError, match="arcfase"):
        make(margin_kind="arcfase")
    with pytest.raises(UserError, match="'met' of 11"):
        make(margin={"cars": [0.1] * 7, "sop": [0.1] * 23, "met": [0.1]})
