"""Tests of classes sharded over replicas, against the head on one device."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from universal_embedding.models.heads import MarginHead
from universal_embedding.models.heads.sharding import whole_table
from universal_embedding.private_apis import disable_gradient_reduction

NUM_CLASSES = {"cars": 7, "sop": 22, "met": 4}
BATCH, DIM = 12, 8
OPTIONS = {"margin": 0.4, "chunk_size": 3}


def make_strategy(replicas):
    # Collective operations cannot change the number of devices within one process.
    reduction = tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)], reduction)


def make_batch():
    rng = np.random.default_rng(0)
    domains = rng.integers(0, 3, BATCH).astype(np.int32)
    labels = rng.integers(0, np.array(list(NUM_CLASSES.values()))[domains]).astype(np.int32)
    return np.float32(rng.normal(size=(BATCH, DIM))), labels, domains


def gradients(head, embeddings, labels, domains):
    """Losses and gradients of their sum over all replicas, divided by the global batch."""
    with tf.GradientTape() as tape:
        tape.watch(embeddings)
        losses = head(embeddings, labels, domains)
        total = tf.reduce_sum(losses) / BATCH
    return losses, *tape.gradient(total, [embeddings, *[w.value for w in head.class_weights]])


def run_on_replicas(replicas, head_options, optimizer=None):
    """Losses, gradients of the embeddings and of each weight, on R replicas; updated weights."""
    strategy = make_strategy(replicas)
    with strategy.scope():
        keras.utils.set_random_seed(1)
        head = MarginHead(NUM_CLASSES, DIM, num_shards=replicas, **OPTIONS, **head_options)
        full = initial_weights(head_options)
        for variable, value in zip(head.class_weights, full, strict=True):
            np.testing.assert_array_equal(whole_table(variable).numpy(), value)
        if optimizer:
            optimizer = optimizer()
            disable_gradient_reduction(optimizer)
            optimizer.build(head.class_weights)
        local_batch = BATCH // replicas
        inputs = [
            strategy.experimental_distribute_values_from_function(
                lambda c, t=t: tf.constant(
                    t[c.replica_id_in_sync_group * local_batch :][:local_batch]
                )
            )
            for t in make_batch()
        ]

        def step(*inputs):
            result = gradients(head, *inputs)
            if optimizer:
                optimizer.apply(result[2:], head.class_weights)
            return result

        result = tf.function(lambda: strategy.run(step, inputs))()
        outputs = [
            np.concatenate([t.numpy() for t in strategy.experimental_local_results(r)])
            for r in result
        ]
        outputs[2:] = [o[: len(w)] for o, w in zip(outputs[2:], full, strict=True)]
        updated = [whole_table(v).numpy() for v in head.class_weights]
        return outputs, updated


def initial_weights(head_options):
    keras.utils.set_random_seed(1)
    head = MarginHead(NUM_CLASSES, DIM, **OPTIONS, **head_options)
    return [w.numpy() for w in head.class_weights]


def run_on_one_device(head_options, optimizer=None):
    keras.utils.set_random_seed(1)
    head = MarginHead(NUM_CLASSES, DIM, **OPTIONS, **head_options)
    result = gradients(head, *map(tf.constant, make_batch()))
    if optimizer:
        optimizer().apply(result[2:], head.class_weights)
    return [r.numpy() for r in result], [w.numpy() for w in head.class_weights]


@pytest.mark.parametrize("replicas", [pytest.param(2, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize(
    "head_options",
    [
        {"joint": True, "softmax_impl": "chunked"},
        {"joint": True, "softmax_impl": "full", "num_subcenters": 2},
        {"joint": False, "softmax_impl": "chunked", "num_subcenters": 2},
        {"joint": False, "softmax_impl": "full"},
    ],
    ids=str,
)
def test_losses_and_gradients_equal_those_of_one_device(replicas, head_options):
    expected, _ = run_on_one_device(head_options)
    actual, _ = run_on_replicas(replicas, head_options)
    for e, a in zip(expected, actual, strict=True):
        assert e.shape == a.shape
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("replicas", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_optimizer_step_equals_that_of_one_device(replicas):
    def adamw():
        return keras.optimizers.AdamW(1e-2, weight_decay=0.1)

    _, expected = run_on_one_device({"joint": True}, adamw)
    _, actual = run_on_replicas(replicas, {"joint": True}, adamw)
    np.testing.assert_allclose(actual[0], expected[0], rtol=1e-5, atol=1e-6)


def test_each_replica_holds_only_its_shard():
    strategy = make_strategy(3)
    with strategy.scope():
        head = MarginHead({"all": 10}, DIM, num_shards=3)
        (variable,) = head.class_weights
        copies = strategy.experimental_local_results(variable.value)
        assert [copy.shape[0] for copy in copies] == [4, 4, 4]  # the last two are padding
        assert not np.array_equal(copies[0], copies[1])
        assert head.trainable_variables == [variable]


@pytest.mark.parametrize("joint", [True, False])
def test_unsharded_losses_do_not_depend_on_the_number_of_replicas(joint):
    expected, _ = run_on_one_device({"joint": joint})
    strategy = make_strategy(2)
    with strategy.scope():
        keras.utils.set_random_seed(1)
        head = MarginHead(NUM_CLASSES, DIM, joint=joint, **OPTIONS)
        half = BATCH // 2
        inputs = [
            strategy.experimental_distribute_values_from_function(
                lambda c, t=t: tf.constant(t[c.replica_id_in_sync_group * half :][:half])
            )
            for t in make_batch()
        ]

        def step(*inputs):
            losses, d_embeddings, *d_weights = gradients(head, *inputs)
            context = tf.distribute.get_replica_context()
            return losses, d_embeddings, *context.all_reduce("sum", d_weights)

        result = [
            [t.numpy() for t in strategy.experimental_local_results(r)]
            for r in tf.function(lambda: strategy.run(step, inputs))()
        ]
    actual = [np.concatenate(result[0]), np.concatenate(result[1]), *[r[0] for r in result[2:]]]
    for e, a in zip(expected, actual, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-6)
