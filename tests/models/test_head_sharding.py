"""Classes over replicas against the head on one device."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from universal_embedding.models.heads import MarginHead
from universal_embedding.models.heads.sharding import read_shards, write_shards

CLASSES = {"cars": 7, "sop": 22, "met": 4}
BATCH, DIMENSION = 12, 8
OPTIONS = {"margin": 0.4, "chunk_size": 3}


def mirrored(replicas):
    # Collective operations cannot change the number of devices within one process.
    reduction = tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)], reduction)


def data():
    rng = np.random.default_rng(0)
    domains = rng.integers(0, 3, BATCH).astype(np.int32)
    labels = rng.integers(0, np.array(list(CLASSES.values()))[domains]).astype(np.int32)
    return np.float32(rng.normal(size=(BATCH, DIMENSION))), labels, domains


def gradients(head, embeddings, labels, domains):
    """Losses and gradients of their sum over all replicas, divided by the global batch."""
    with tf.GradientTape() as tape:
        tape.watch(embeddings)
        losses = head(embeddings, labels, domains)
        total = tf.reduce_sum(losses) / BATCH
    return losses, *tape.gradient(total, [embeddings, *[w.value for w in head.class_weights]])


def on_replicas(replicas, head_options, optimizer=None):
    """Losses, gradients of the embeddings, and for each weight its gradient, on R replicas."""
    strategy = mirrored(replicas)
    with strategy.scope():
        head = MarginHead(CLASSES, DIMENSION, sharded=True, **OPTIONS, **head_options)
        full = weights_of(head_options)
        for variable, value in zip(head.class_weights, full, strict=True):
            write_shards(variable, value)
            np.testing.assert_array_equal(read_shards(variable, len(value)), value)
        if optimizer:
            optimizer = optimizer()
            optimizer._all_reduce_sum_gradients = list
            optimizer.build(head.class_weights)
        each = BATCH // replicas
        inputs = [
            strategy.experimental_distribute_values_from_function(
                lambda c, t=t: tf.constant(t[c.replica_id_in_sync_group * each :][:each])
            )
            for t in data()
        ]

        def step(*inputs):
            result = gradients(head, *inputs)
            if optimizer:
                optimizer.apply(result[2:], head.class_weights)
            return result

        result = tf.function(lambda: strategy.run(step, inputs))()
        parts = [
            np.concatenate([t.numpy() for t in strategy.experimental_local_results(r)])
            for r in result
        ]
        parts[2:] = [p[: len(w)] for p, w in zip(parts[2:], full, strict=True)]
        after = [read_shards(v, len(w)) for v, w in zip(head.class_weights, full, strict=True)]
        return parts, after


def weights_of(head_options):
    keras.utils.set_random_seed(1)
    head = MarginHead(CLASSES, DIMENSION, **OPTIONS, **head_options)
    return [w.numpy() for w in head.class_weights]


def alone(head_options, optimizer=None):
    keras.utils.set_random_seed(1)
    head = MarginHead(CLASSES, DIMENSION, **OPTIONS, **head_options)
    result = gradients(head, *map(tf.constant, data()))
    if optimizer:
        optimizer().apply(result[2:], head.class_weights)
    return [r.numpy() for r in result], [w.numpy() for w in head.class_weights]


@pytest.mark.parametrize("replicas", [2, 3])
@pytest.mark.parametrize(
    "head_options",
    [
        {"joint": True, "method": "chunked"},
        {"joint": True, "method": "plain", "centers": 2},
        {"joint": False, "method": "chunked", "centers": 2},
        {"joint": False, "method": "plain"},
    ],
    ids=str,
)
def test_losses_and_gradients_equal_those_of_one_device(replicas, head_options):
    want, _ = alone(head_options)
    got, _ = on_replicas(replicas, head_options)
    for w, g in zip(want, got, strict=True):
        assert w.shape == g.shape
        np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("replicas", [2, 3])
def test_an_optimizer_step_equals_that_of_one_device(replicas):
    def adamw():
        return keras.optimizers.AdamW(1e-2, weight_decay=0.1)

    _, want = alone({"joint": True}, adamw)
    _, got = on_replicas(replicas, {"joint": True}, adamw)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5, atol=1e-6)


def test_each_replica_holds_its_share_only():
    strategy = mirrored(3)
    with strategy.scope():
        head = MarginHead({"all": 10}, DIMENSION, sharded=True)
        (variable,) = head.class_weights
        copies = strategy.experimental_local_results(variable.value)
        assert [copy.shape[0] for copy in copies] == [4, 4, 4]  # the last two do not exist
        assert not np.array_equal(copies[0], copies[1])
        assert head.trainable_variables == [variable]


@pytest.mark.parametrize("joint", [True, False])
def test_unsharded_losses_do_not_depend_on_the_replicas(joint):
    want, _ = alone({"joint": joint})
    strategy = mirrored(2)
    with strategy.scope():
        keras.utils.set_random_seed(1)
        head = MarginHead(CLASSES, DIMENSION, joint=joint, **OPTIONS)
        half = BATCH // 2
        inputs = [
            strategy.experimental_distribute_values_from_function(
                lambda c, t=t: tf.constant(t[c.replica_id_in_sync_group * half :][:half])
            )
            for t in data()
        ]

        def step(*inputs):
            losses, d_embeddings, *d_weights = gradients(head, *inputs)
            context = tf.distribute.get_replica_context()
            return losses, d_embeddings, *context.all_reduce("sum", d_weights)

        result = [
            [t.numpy() for t in strategy.experimental_local_results(r)]
            for r in tf.function(lambda: strategy.run(step, inputs))()
        ]
    got = [np.concatenate(result[0]), np.concatenate(result[1]), *[r[0] for r in result[2:]]]
    for w, g in zip(want, got, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-6)
