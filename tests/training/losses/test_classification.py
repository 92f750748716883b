"""Margin softmax with label smoothing and mixed images, against a loop over its formula."""

import itertools
import math

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.loss_batches import on_replicas, unit_rows
from universal_embedding.models.heads import MarginHead
from universal_embedding.training.losses import ModelOutputs
from universal_embedding.training.strategy import mirrored

SLOW = pytest.mark.slow


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return {
        "features": rng.normal(size=(12, 8)).astype(np.float32),
        "domain": rng.integers(0, 3, 12).astype(np.int32),
        "label": rng.integers(0, 4, 12).astype(np.int32),
        "label2": rng.integers(0, 4, 12).astype(np.int32),
        "mix": rng.uniform(size=12).astype(np.float32),
    }


def naive_loss(embedding, classes, target, scale, margin, margin_type, smoothing):
    """Cross-entropy of one image with 1 - e + e / C on its class and e / C on the others."""
    cosines = [float(np.dot(embedding, c)) for c in classes]
    angle = math.acos(min(1.0, max(-1.0, cosines[target])))
    if margin_type == "arcface" and angle + margin <= math.pi:
        cosines[target] = math.cos(angle + margin)
    elif margin_type == "arcface":
        cosines[target] -= margin * math.sin(margin)
    else:
        cosines[target] -= margin
    logits = [scale * c for c in cosines]
    total = math.log(sum(math.exp(z) for z in logits))
    loss = 0.0
    for c, z in enumerate(logits):
        share = smoothing / len(logits) + (1 - smoothing if c == target else 0.0)
        loss += share * (total - z)
    return loss


def values_on_replicas(experiment, batch, **outputs):
    """The loss of each image, computed on all replicas of the experiment's strategy."""

    def compute(part):
        embedding = experiment.model.embed_features(part["features"])
        step = tf.constant(0, tf.int64)
        arguments = ModelOutputs(part["features"], embedding, step, tf.constant(1.0), **outputs)
        return experiment.losses["classification"][1](part, arguments)

    return on_replicas(compute, batch, experiment.strategy)


FACTORS = ((1, 2), (False, True), (True, False), ("arcface", "cosface"))
# Half of the grid is fast: every value of a factor with every value of each other factor.
GRID = [
    case if sum(map(tuple.index, FACTORS, case)) % 2 == 0 else pytest.param(*case, marks=SLOW)
    for case in itertools.product(*FACTORS)
]


@pytest.mark.parametrize(("num_replicas", "per_domain", "joint", "margin_type"), GRID)
def test_loss_equals_a_loop(
    make_experiment, config, batch, num_replicas, per_domain, joint, margin_type
):
    if per_domain:
        batch["domain"][:] = 1
    config.head.update(joint=joint, margin_type=margin_type, margin=0.1)
    experiment = make_experiment(strategy=mirrored(2) if num_replicas == 2 else None)
    actual = values_on_replicas(experiment, batch, margin_shift=0.25, label_smoothing=0.2)
    kernel = experiment.model.projection.kernel.numpy()
    embedding = unit_rows(batch["features"] @ kernel)
    weights = [w.numpy() for w in experiment.losses["classification"][1].head.class_weights]
    classes = unit_rows(np.concatenate(weights))
    for i, domain in enumerate(batch["domain"]):
        own = classes if joint else classes[4 * domain : 4 * domain + 4]
        losses = []
        for name in ("label", "label2"):
            target = batch[name][i] + (4 * domain if joint else 0)
            arguments = (config.head.scale, 0.1 + 0.25, margin_type, 0.2)
            losses.append(naive_loss(embedding[i], own, target, *arguments))
        mix = batch["mix"][i]
        expected = mix * losses[0] + (1 - mix) * losses[1]
        assert actual[i] == pytest.approx(expected, rel=2e-5, abs=1e-5)


@pytest.mark.parametrize("joint", [True, False])
def test_gradient_of_smoothing_is_that_of_the_whole_softmax(joint):
    head = MarginHead({"a": 5, "b": 7}, 4, "cosface", 0.2, 8.0, joint=joint, softmax_impl="chunked")
    rng = np.random.default_rng(0)
    rows = tf.constant(rng.normal(size=(6, 4)), tf.float32)
    domains = tf.constant([0, 1, 1, 0, 1, 0])
    labels = tf.constant([4, 6, 0, 1, 2, 3])
    variables = [w.value for w in head.class_weights]
    sizes, starts = ([12], [0]) if joint else ([5, 7], [0, 5])
    ids = labels + 5 * domains
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(rows)
        actual = head(rows, labels, domains, label_smoothing=0.3)
        classes = tf.math.l2_normalize(tf.concat(variables, 0), axis=1)
        cosines = tf.matmul(tf.math.l2_normalize(rows, axis=1), classes, transpose_b=True)
        logits = 8.0 * (cosines - 0.2 * tf.one_hot(ids, 12))
        expected = []
        for i in range(6):
            group = 0 if joint else int(domains[i])
            own = slice(starts[group], starts[group] + sizes[group])
            target = tf.one_hot(ids[i], 12)[own] * 0.7 + 0.3 / sizes[group]
            expected.append(tf.nn.softmax_cross_entropy_with_logits(target, logits[i, own]))
        expected = tf.stack(expected)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    for watched in (rows, *variables):
        gradients = [tape.gradient(loss, watched) for loss in (actual, expected)]
        np.testing.assert_allclose(*map(tf.convert_to_tensor, gradients), atol=1e-5)


def test_class_margins_stay_in_their_range(make_experiment, config):
    config.head.update(class_margin=2.0, class_margin_power=0.5, margin=0.01)
    config.head.class_margin_range = (0.05, 0.5)
    experiment = make_experiment()
    sizes = np.concatenate([np.bincount(np.arange(n) % 4) for n in (30, 50, 20)])
    expected = [min(0.5, max(0.05, 2.0 / math.sqrt(n) + 0.01)) for n in sizes]
    margins = experiment.losses["classification"][1].head._margins
    np.testing.assert_allclose(margins, expected, rtol=1e-6)
    assert max(expected) == 0.5
