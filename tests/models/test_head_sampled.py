"""Tests of sampled classes (Partial FC): expectations against all classes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from universal_embedding.errors import UserError
from universal_embedding.models.heads import NEG_INF, MarginHead, margin_head, sampled
from universal_embedding.models.heads.sampled import sample_classes

NUM_CLASSES, NUM_SAMPLED = 53, 10
LABELS = tf.constant([4, 4, 52, 17, -1, 0], tf.int32)


def test_every_class_counts_once_in_expectation():
    expected = np.zeros(NUM_CLASSES)
    num_trials = 4000
    sample = tf.function(lambda seed: sample_classes(LABELS, NUM_CLASSES, NUM_SAMPLED, seed))
    for trial in range(num_trials):
        ids, bias, positions = (t.numpy() for t in sample(tf.constant([7, trial])))
        is_included = bias > NEG_INF
        assert len(set(ids[is_included])) == is_included.sum()  # no class twice
        np.testing.assert_array_equal(np.where(LABELS < 0, -1, ids[positions]), LABELS)
        assert (bias[positions[LABELS >= 0]] == 0).all()
        np.add.at(expected, ids[is_included], np.exp(bias[is_included]))
    # A class represents 5 or 6 with probability 1/5 or 1/6: variance below 6 - 1.
    np.testing.assert_allclose(expected / num_trials, 1, atol=5 * np.sqrt(5 / num_trials))
    assert (expected[[0, 4, 17, 52]] == num_trials).all()


@pytest.mark.parametrize("softmax_impl", ["full", "chunked"])
@pytest.mark.parametrize("num_subcenters", [1, 2])
def test_summed_exponentials_are_unbiased(softmax_impl, num_subcenters):
    keras.utils.set_random_seed(1)
    options = {"scale": 4.0, "num_subcenters": num_subcenters, "margin": 0.2, "chunk_size": 7}
    full = MarginHead({"all": NUM_CLASSES}, 8, softmax_impl=softmax_impl, **options)
    head = MarginHead(
        {"all": NUM_CLASSES},
        8,
        softmax_impl=softmax_impl,
        num_sampled_classes=NUM_SAMPLED,
        **options,
    )
    head.class_weights[0].assign(full.class_weights[0])
    x = tf.random.stateless_normal([5, 8], [1, 2])
    labels, domains = tf.constant([4, 4, 52, 17, 0]), tf.zeros([5], tf.int32)
    loss_fn = tf.function(lambda seed: head(x, labels, domains, seed=seed))
    losses = np.stack([loss_fn(tf.constant([3, i])).numpy() for i in range(3000)])
    # exp(loss) - 1 is the sum over the rest divided by the target's exponential: linear in it.
    ratios = np.expm1(losses)
    expected = np.expm1(full(x, labels, domains).numpy())
    error = ratios.std(axis=0) / np.sqrt(len(ratios))
    assert (error < 0.02 * expected).all()
    assert (np.abs(ratios.mean(axis=0) - expected) < 5 * error).all()


def test_sampling_every_class_is_exact():
    keras.utils.set_random_seed(1)
    full = MarginHead({"all": NUM_CLASSES}, 8)
    head = MarginHead({"all": NUM_CLASSES}, 8, num_sampled_classes=NUM_CLASSES - 1)
    head.class_weights[0].assign(full.class_weights[0])
    ids, bias, _ = sample_classes(LABELS, NUM_CLASSES, NUM_CLASSES, tf.constant([1, 1]))
    assert sorted(ids.numpy()[bias > NEG_INF]) == list(range(NUM_CLASSES))
    assert set(bias.numpy()) == {0.0, np.float32(NEG_INF)}


def test_only_sampled_classes_get_a_gradient():
    head = MarginHead({"all": 1000}, 8, num_sampled_classes=50)
    labels, domains = tf.constant([4, 999]), tf.zeros([2], tf.int32)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(head(tf.eye(2, 8), labels, domains, seed=tf.constant([0, 1])))
    gradient = tape.gradient(loss, head.class_weights[0].value)
    assert isinstance(gradient, tf.IndexedSlices)
    assert gradient.values.shape == (52, 8)
    assert {4, 999} <= set(gradient.indices.numpy())
    assert np.isfinite(gradient.values).all()


def test_missing_seed_is_an_error():
    head = MarginHead({"all": NUM_CLASSES}, 8, num_sampled_classes=NUM_SAMPLED)
    with pytest.raises(UserError, match="num_sampled_classes=10"):
        head(tf.eye(2, 8), tf.constant([0, 1]), tf.constant([0, 0]))


def test_separate_classifiers_sample_classes_of_their_own(monkeypatch):
    seeds = []

    def record_seed(labels, num_classes, num_sampled, seed):
        seeds.append(tuple(seed.numpy()))
        return sampled.sample_classes(labels, num_classes, num_sampled, seed)

    monkeypatch.setattr(margin_head, "sample_classes", record_seed)
    head = MarginHead({"a": 50, "b": 50, "c": 50}, 4, num_sampled_classes=5)
    rows = np.random.default_rng(0).normal(size=(6, 4))
    domains = tf.constant([0, 0, 1, 1, 2, 2])
    head(tf.constant(rows), tf.range(6), domains, seed=tf.constant([3, 8]))
    assert len(set(seeds)) == 3
