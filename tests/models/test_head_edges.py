"""Inputs at the ends of their ranges, schedules, and identities between heads."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from universal_embedding.errors import UserError
from universal_embedding.models.heads import MarginHead, dynamic_margins

METHODS = ["plain", "chunked"]


def make(classes, **options):
    keras.utils.set_random_seed(3)
    return MarginHead(classes, 4, **{"chunk_size": 3, "margin": 0.5, **options})


def losses_and_gradients(head, x, labels, domains=None, **options):
    x = tf.constant(x)
    domains = tf.zeros_like(labels) if domains is None else domains
    with tf.GradientTape() as tape:
        tape.watch(x)
        losses = head(x, labels, domains, **options)
    sources = [x, *[w.value for w in head.class_weights]]
    return losses, *tape.gradient(losses, sources, unconnected_gradients="zero")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("centers", [1, 2])
@pytest.mark.parametrize("kind", ["none", "cosface", "arcface"])
@pytest.mark.parametrize("scale", [16.0, 64.0, 300.0])
def test_finite_at_the_ends(method, centers, kind, scale):
    head = make({"a": 8}, method=method, centers=centers, margin_kind=kind, scale=scale)
    w = np.float32(head.class_weights[0].numpy()[0])
    for x in (w, -w, w * 1e-6, w * 1e6, np.zeros(4, np.float32)):
        for result in losses_and_gradients(head, x[None], tf.constant([0])):
            assert np.isfinite(result).all()


@pytest.mark.parametrize("method", METHODS)
def test_loss_at_cosine_one_and_minus_one(method):
    head = make({"a": 2}, method=method, scale=2.0)
    head.class_weights[0].assign([[3.0, 0, 0, 0], [0, 7, 0, 0]])
    losses = head(tf.constant([[1.0, 0, 0, 0], [-1, 0, 0, 0]]), tf.zeros(2), tf.zeros(2))
    target = 2 * np.array([np.cos(0.5), -1 - 0.5 * np.sin(0.5)])
    np.testing.assert_allclose(losses, np.log(1 + np.exp(-target)), rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_zero_embeddings_see_every_class_alike_and_teach_nothing(method):
    head = make({"a": 8}, method=method, margin_kind="none")
    losses, *gradients = losses_and_gradients(head, np.zeros((2, 4), "f4"), tf.constant([0, 5]))
    np.testing.assert_allclose(losses, np.log(8), rtol=1e-6)
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("joint", [True, False])
def test_a_domain_of_one_class(method, joint):
    head = make({"a": 1, "b": 1, "c": 6}, method=method, joint=joint)
    x = np.float32(np.random.default_rng(0).normal(size=(3, 4)))
    domains = tf.constant([0, 1, 2])
    losses, *gradients = losses_and_gradients(head, x, tf.constant([0, 0, 3]), domains)
    assert all(np.isfinite(g).all() for g in (losses, *gradients))
    if not joint:
        np.testing.assert_array_equal(losses[:2], 0)


def test_one_center_with_copies_is_arcface():
    one, three = make({"a": 7}), make({"a": 7}, centers=3)
    three.class_weights[0].assign(np.repeat(one.class_weights[0].numpy(), 3, axis=0))
    x, labels = np.float32(np.random.default_rng(0).normal(size=(5, 4))), tf.range(5)
    plain, _, d_one = losses_and_gradients(one, x, labels)
    copies, _, d_three = losses_and_gradients(three, x, labels)
    np.testing.assert_allclose(plain, copies, rtol=1e-6)
    np.testing.assert_allclose(
        d_one, d_three.numpy().reshape(7, 3, 4).sum(axis=1), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("method", METHODS)
def test_joint_with_offsets_is_one_domain_with_all_classes(method):
    joint, single = make({"a": 4, "b": 9}, joint=True, method=method), make({"all": 13})
    single.class_weights[0].assign(joint.class_weights[0])
    x = np.float32(np.random.default_rng(0).normal(size=(6, 4)))
    domains, labels = tf.constant([0, 1, 1, 0, 1, 0]), tf.constant([3, 8, 0, 0, 4, 1])
    np.testing.assert_allclose(
        joint(x, labels, domains), single(x, labels + 4 * domains, 0 * domains), rtol=1e-6
    )


@pytest.mark.parametrize("method", METHODS)
def test_separate_is_a_head_for_each_domain(method):
    separate = make({"a": 4, "b": 9}, method=method)
    x = np.float32(np.random.default_rng(0).normal(size=(6, 4)))
    domains, labels = tf.constant([0, 1, 1, 0, 1, 0]), tf.constant([3, 8, 0, 0, 4, 1])
    losses, d_x, *d_weights = losses_and_gradients(separate, x, labels, domains)
    for number, (domain, count) in enumerate(separate.classes.items()):
        alone = make({domain: count})
        alone.class_weights[0].assign(separate.class_weights[number])
        here = np.flatnonzero(domains == number)
        want = losses_and_gradients(alone, x[here], tf.gather(labels, here))
        got = (losses.numpy()[here], d_x.numpy()[here], d_weights[number])
        for g, w in zip(got, want, strict=True):
            np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-6)


def test_schedules_replace_scale_and_margin():
    head, other = make({"a": 7}), make({"a": 7}, scale=12.0, margin=0.1)
    x, labels = np.float32(np.random.default_rng(0).normal(size=(5, 4))), tf.range(5)
    step = tf.function(lambda s, f: head(x, labels, 0 * labels, scale=s, margin_factor=f))
    got = step(tf.constant(12.0), tf.constant(0.2))
    np.testing.assert_allclose(got, other(x, labels, 0 * labels), rtol=1e-5)


def test_margins_by_class():
    margins = {"a": dynamic_margins([1, 5, 9]), "b": dynamic_margins([100, 2])}
    head = make({"a": 3, "b": 2}, margin=margins)
    x = np.float32(np.random.default_rng(0).normal(size=(2, 4)))
    got = head(x, tf.constant([2, 1]), tf.constant([0, 1]))
    for i, margin in enumerate([margins["a"][2], margins["b"][1]]):
        same = make({"a": 3, "b": 2}, margin=float(margin))
        want = same(x, tf.constant([2, 1]), tf.constant([0, 1]))
        np.testing.assert_allclose(got[i], want[i], rtol=1e-6)


def test_margins_outside_their_range():
    with pytest.raises(UserError, match="radians"):
        make({"a": 3}, margin=4.0)
