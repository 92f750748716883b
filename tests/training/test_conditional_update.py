"""Conditional updates of one domain, against training that domain alone."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from universal_embedding.models.heads import MarginHead
from universal_embedding.training.param_groups import conditional_update

NUM_CLASSES = {"cars": 5, "sop": 9, "met": 4}
OPTIMIZERS = {
    "adamw": lambda: keras.optimizers.AdamW(1e-2, weight_decay=0.1, clipnorm=1.0),
    "momentum": lambda: keras.optimizers.SGD(1e-2, momentum=0.9, weight_decay=0.1),
    "lion": lambda: keras.optimizers.Lion(1e-2, weight_decay=0.1, use_ema=True),
}


def make_head_and_optimizers(make_optimizer):
    keras.utils.set_random_seed(1)
    head = MarginHead(NUM_CLASSES, dim=6)
    optimizers = [make_optimizer() for _ in head.class_weights]
    for optimizer, weights in zip(optimizers, head.class_weights, strict=True):
        optimizer.build([weights])
    return head, optimizers


def make_step(head, optimizers, jit=False):
    @tf.function(jit_compile=jit)
    def step(embeddings, labels, domains):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(head(embeddings, labels, domains))
        gradients = tape.gradient(
            loss, [w.value for w in head.class_weights], unconnected_gradients="zero"
        )
        updated = head.updated_groups(domains)
        for i, optimizer in enumerate(optimizers):
            conditional_update(updated[i], optimizer, [gradients[i]], [head.class_weights[i]])

    return step


def batches(steps):
    rng = np.random.default_rng(0)
    for step in range(steps):
        domain = [0, 1, 1, 0][step % 4]  # never the third
        domains = np.full(8, domain, np.int32)
        labels = rng.integers(0, list(NUM_CLASSES.values())[domain], 8).astype(np.int32)
        yield np.float32(rng.normal(size=(8, 6))), labels, domains


def state(head, optimizers, i):
    return [v.numpy() for v in [head.class_weights[i], *optimizers[i].variables]]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("jit", [False, True])
def test_absent_domains_stay_bit_identical(name, jit):
    head, optimizers = make_head_and_optimizers(OPTIMIZERS[name])
    step = make_step(head, optimizers, jit)
    for embeddings, labels, domains in batches(6):
        before = [state(head, optimizers, i) for i in range(3)]
        step(tf.constant(embeddings), tf.constant(labels), tf.constant(domains))
        for i in range(3):
            after = state(head, optimizers, i)
            if i == domains[0]:
                assert not np.array_equal(before[i][0], after[0])
            else:
                for old, new in zip(before[i], after, strict=True):
                    np.testing.assert_array_equal(old, new)
    assert [int(o.iterations) for o in optimizers] == [3, 3, 0]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_domain_equals_training_it_alone(name):
    head, optimizers = make_head_and_optimizers(OPTIMIZERS[name])
    plain_head, plain_optimizers = make_head_and_optimizers(OPTIMIZERS[name])
    step = make_step(head, optimizers)
    for embeddings, labels, domains in batches(8):
        step(tf.constant(embeddings), tf.constant(labels), tf.constant(domains))
        domain = domains[0]
        weights = plain_head.class_weights[domain]
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(plain_head(embeddings, labels, domains))
        plain_optimizers[domain].apply([tape.gradient(loss, weights.value)], [weights])
    for i in range(3):
        pairs = zip(state(head, optimizers, i), state(plain_head, plain_optimizers, i), strict=True)
        for conditional, plain in pairs:
            np.testing.assert_allclose(conditional, plain, rtol=1e-5, atol=1e-6)
