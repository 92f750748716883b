"""The expectation of sampled classes against all classes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from universal_embedding.errors import UserError
from universal_embedding.models.heads import MarginHead
from universal_embedding.models.heads.sampled import sample_classes
from universal_embedding.models.heads.softmax import NEVER

CLASSES, SAMPLES = 53, 10
LABELS = tf.constant([4, 4, 52, 17, -1, 0], tf.int32)


def test_every_class_is_expected_once():
    expected = np.zeros(CLASSES)
    draws = 4000
    draw = tf.function(lambda seed: sample_classes(LABELS, CLASSES, SAMPLES, seed))
    for number in range(draws):
        ids, bias, positions = (t.numpy() for t in draw(tf.constant([7, number])))
        taking_part = bias > NEVER
        assert len(set(ids[taking_part])) == taking_part.sum()  # no class twice
        np.testing.assert_array_equal(np.where(LABELS < 0, -1, ids[positions]), LABELS)
        assert (bias[positions[LABELS >= 0]] == 0).all()
        np.add.at(expected, ids[taking_part], np.exp(bias[taking_part]))
    # A class stands for 5 or 6 with probability 1/5 or 1/6: variance below 6 - 1.
    np.testing.assert_allclose(expected / draws, 1, atol=5 * np.sqrt(5 / draws))
    assert (expected[[0, 4, 17, 52]] == draws).all()


@pytest.mark.parametrize("method", ["plain", "chunked"])
@pytest.mark.parametrize("centers", [1, 2])
def test_summed_exponentials_are_right_on_average(method, centers):
    keras.utils.set_random_seed(1)
    options = {"scale": 4.0, "centers": centers, "margin": 0.2, "chunk_size": 7}
    full = MarginHead({"all": CLASSES}, 8, method=method, **options)
    head = MarginHead({"all": CLASSES}, 8, method=method, samples=SAMPLES, **options)
    head.class_weights[0].assign(full.class_weights[0])
    x = tf.random.stateless_normal([5, 8], [1, 2])
    labels, domains = tf.constant([4, 4, 52, 17, 0]), tf.zeros([5], tf.int32)
    draw = tf.function(lambda seed: head(x, labels, domains, seed=seed))
    losses = np.stack([draw(tf.constant([3, i])).numpy() for i in range(3000)])
    # exp(loss) - 1 is the others' sum over the target's exponential: linear in the sum.
    ratios = np.expm1(losses)
    want = np.expm1(full(x, labels, domains).numpy())
    error = ratios.std(axis=0) / np.sqrt(len(ratios))
    assert (error < 0.02 * want).all()
    assert (np.abs(ratios.mean(axis=0) - want) < 5 * error).all()


def test_as_many_samples_as_classes_is_exact():
    keras.utils.set_random_seed(1)
    full = MarginHead({"all": CLASSES}, 8)
    head = MarginHead({"all": CLASSES}, 8, samples=CLASSES - 1)
    head.class_weights[0].assign(full.class_weights[0])
    ids, bias, _ = sample_classes(LABELS, CLASSES, CLASSES, tf.constant([1, 1]))
    assert sorted(ids.numpy()[bias > NEVER]) == list(range(CLASSES))
    assert set(bias.numpy()) == {0.0, np.float32(NEVER)}


def test_only_drawn_classes_get_a_gradient():
    head = MarginHead({"all": 1000}, 8, samples=50)
    labels, domains = tf.constant([4, 999]), tf.zeros([2], tf.int32)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(head(tf.eye(2, 8), labels, domains, seed=tf.constant([0, 1])))
    gradient = tape.gradient(loss, head.class_weights[0].value)
    assert isinstance(gradient, tf.IndexedSlices)
    assert gradient.values.shape == (52, 8)
    assert {4, 999} <= set(gradient.indices.numpy())
    assert np.isfinite(gradient.values).all()


def test_a_seed_is_required():
    head = MarginHead({"all": CLASSES}, 8, samples=SAMPLES)
    with pytest.raises(UserError, match="samples=10"):
        head(tf.eye(2, 8), tf.constant([0, 1]), tf.constant([0, 0]))
