"""Tests of heads at the ends of their ranges, with schedules, and of identities between heads."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from universal_embedding.errors import UserError
from universal_embedding.models.heads import MarginHead, class_margins

SOFTMAX_IMPLS = ["full", "chunked"]


def make_head(num_classes_by_domain, **options):
    keras.utils.set_random_seed(3)
    return MarginHead(num_classes_by_domain, 4, **{"chunk_size": 3, "margin": 0.5, **options})


def losses_and_gradients(head, x, labels, domains=None, **options):
    x = tf.constant(x)
    domains = tf.zeros_like(labels) if domains is None else domains
    with tf.GradientTape() as tape:
        tape.watch(x)
        losses = head(x, labels, domains, **options)
    sources = [x, *[w.value for w in head.class_weights]]
    return losses, *tape.gradient(losses, sources, unconnected_gradients="zero")


@pytest.mark.parametrize("softmax_impl", SOFTMAX_IMPLS)
@pytest.mark.parametrize("num_subcenters", [1, 2])
@pytest.mark.parametrize("margin_type", ["none", "cosface", "arcface"])
@pytest.mark.parametrize("scale", [16.0, 64.0, 300.0])
def test_losses_and_gradients_are_finite_at_extreme_embeddings(
    softmax_impl, num_subcenters, margin_type, scale
):
    head = make_head(
        {"a": 8},
        softmax_impl=softmax_impl,
        num_subcenters=num_subcenters,
        margin_type=margin_type,
        scale=scale,
    )
    w = np.float32(head.class_weights[0].numpy()[0])
    for x in (w, -w, w * 1e-6, w * 1e6, np.zeros(4, np.float32)):
        for result in losses_and_gradients(head, x[None], tf.constant([0])):
            assert np.isfinite(result).all()


@pytest.mark.parametrize("softmax_impl", SOFTMAX_IMPLS)
def test_loss_equals_the_formula_at_cosine_one_and_minus_one(softmax_impl):
    head = make_head({"a": 2}, softmax_impl=softmax_impl, scale=2.0)
    head.class_weights[0].assign([[3.0, 0, 0, 0], [0, 7, 0, 0]])
    losses = head(tf.constant([[1.0, 0, 0, 0], [-1, 0, 0, 0]]), tf.zeros(2), tf.zeros(2))
    target = 2 * np.array([np.cos(0.5), -1 - 0.5 * np.sin(0.5)])
    np.testing.assert_allclose(losses, np.log(1 + np.exp(-target)), rtol=1e-6)


@pytest.mark.parametrize("softmax_impl", SOFTMAX_IMPLS)
def test_zero_embeddings_give_uniform_loss_and_no_gradient(softmax_impl):
    head = make_head({"a": 8}, softmax_impl=softmax_impl, margin_type="none")
    losses, *gradients = losses_and_gradients(head, np.zeros((2, 4), "f4"), tf.constant([0, 5]))
    np.testing.assert_allclose(losses, np.log(8), rtol=1e-6)
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("softmax_impl", SOFTMAX_IMPLS)
@pytest.mark.parametrize("joint", [True, False])
def test_loss_is_zero_for_a_domain_of_one_class(softmax_impl, joint):
    head = make_head({"a": 1, "b": 1, "c": 6}, softmax_impl=softmax_impl, joint=joint)
    x = np.float32(np.random.default_rng(0).normal(size=(3, 4)))
    domains = tf.constant([0, 1, 2])
    losses, *gradients = losses_and_gradients(head, x, tf.constant([0, 0, 3]), domains)
    assert all(np.isfinite(g).all() for g in (losses, *gradients))
    if not joint:
        np.testing.assert_array_equal(losses[:2], 0)


def test_identical_subcenters_equal_a_single_one():
    single, triple = make_head({"a": 7}), make_head({"a": 7}, num_subcenters=3)
    triple.class_weights[0].assign(np.repeat(single.class_weights[0].numpy(), 3, axis=0))
    x, labels = np.float32(np.random.default_rng(0).normal(size=(5, 4))), tf.range(5)
    single_losses, _, d_single = losses_and_gradients(single, x, labels)
    triple_losses, _, d_triple = losses_and_gradients(triple, x, labels)
    np.testing.assert_allclose(single_losses, triple_losses, rtol=1e-6)
    np.testing.assert_allclose(
        d_single, d_triple.numpy().reshape(7, 3, 4).sum(axis=1), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("softmax_impl", SOFTMAX_IMPLS)
def test_joint_head_equals_one_domain_with_all_classes(softmax_impl):
    joint, single = (
        make_head({"a": 4, "b": 9}, joint=True, softmax_impl=softmax_impl),
        make_head({"all": 13}),
    )
    single.class_weights[0].assign(joint.class_weights[0])
    x = np.float32(np.random.default_rng(0).normal(size=(6, 4)))
    domains, labels = tf.constant([0, 1, 1, 0, 1, 0]), tf.constant([3, 8, 0, 0, 4, 1])
    np.testing.assert_allclose(
        joint(x, labels, domains), single(x, labels + 4 * domains, 0 * domains), rtol=1e-6
    )


@pytest.mark.parametrize("softmax_impl", SOFTMAX_IMPLS)
def test_separate_head_equals_one_head_per_domain(softmax_impl):
    separate = make_head({"a": 4, "b": 9}, softmax_impl=softmax_impl)
    x = np.float32(np.random.default_rng(0).normal(size=(6, 4)))
    domains, labels = tf.constant([0, 1, 1, 0, 1, 0]), tf.constant([3, 8, 0, 0, 4, 1])
    losses, d_x, *d_weights = losses_and_gradients(separate, x, labels, domains)
    for index, (domain, count) in enumerate(separate.num_classes_by_domain.items()):
        single = make_head({domain: count})
        single.class_weights[0].assign(separate.class_weights[index])
        rows = np.flatnonzero(domains == index)
        expected = losses_and_gradients(single, x[rows], tf.gather(labels, rows))
        actual = (losses.numpy()[rows], d_x.numpy()[rows], d_weights[index])
        for a, e in zip(actual, expected, strict=True):
            np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-6)


def test_scheduled_scale_and_margin_replace_those_of_the_head():
    head, expected = make_head({"a": 7}), make_head({"a": 7}, scale=12.0, margin=0.1)
    x, labels = np.float32(np.random.default_rng(0).normal(size=(5, 4))), tf.range(5)
    step = tf.function(lambda s, m: head(x, labels, 0 * labels, scale=s, margin_scale=m))
    actual = step(tf.constant(12.0), tf.constant(0.2))
    np.testing.assert_allclose(actual, expected(x, labels, 0 * labels), rtol=1e-5)


def test_class_margins_apply_to_their_classes():
    margins = {"a": class_margins([1, 5, 9]), "b": class_margins([100, 2])}
    head = make_head({"a": 3, "b": 2}, margin=margins)
    x = np.float32(np.random.default_rng(0).normal(size=(2, 4)))
    actual = head(x, tf.constant([2, 1]), tf.constant([0, 1]))
    for i, margin in enumerate([margins["a"][2], margins["b"][1]]):
        same = make_head({"a": 3, "b": 2}, margin=float(margin))
        expected = same(x, tf.constant([2, 1]), tf.constant([0, 1]))
        np.testing.assert_allclose(actual[i], expected[i], rtol=1e-6)


def test_arcface_margin_beyond_pi_is_an_error():
    with pytest.raises(UserError, match="radians"):
        make_head({"a": 3}, margin=4.0)
