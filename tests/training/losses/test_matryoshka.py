"""The loss over prefixes of the embedding: a loop in float64, and a head of its own per prefix."""

import types

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.loss_batches import unit_rows
from universal_embedding.errors import UserError
from universal_embedding.models.heads import MarginHead
from universal_embedding.training.config import base_config
from universal_embedding.training.losses import LOSSES, LossContext, ModelOutputs
from universal_embedding.training.losses.classification import class_seed

SIZES = {"apples": 5, "boats": 9}
DIM, BATCH, MARGIN, SCALE = 8, 10, 0.2, 12.0


def make_loss(prefixes=(2, 4, DIM), **head):
    config = base_config()
    options = {"margin": MARGIN, "scale": SCALE, "prefixes": tuple(prefixes)}
    config.head.update(options | head)
    model = types.SimpleNamespace(output_dim=DIM)
    sizes = {domain: np.full(count, 3) for domain, count in SIZES.items()}
    return LOSSES["classification"](LossContext(config, model, sizes))


def make_batch():
    rng = np.random.default_rng(0)
    domains = rng.integers(0, 2, BATCH).astype(np.int32)
    labels = rng.integers(0, np.array(list(SIZES.values()))[domains]).astype(np.int32)
    batch = {"domain": domains, "label": labels}
    return unit_rows(rng.normal(size=(BATCH, DIM))), {k: tf.constant(v) for k, v in batch.items()}


def compute(loss, embedding, batch, smoothing=0.0):
    step = tf.constant(3, tf.int64)
    outputs = ModelOutputs(
        None, tf.constant(embedding), step, tf.constant(1.0), label_smoothing=smoothing
    )
    return loss(batch, outputs).numpy()


def naive_sum(loss, embedding, batch, prefixes):
    """CosFace of each prefix, one image and one class at a time."""
    head, losses = loss.head, np.zeros(BATCH)
    for i in range(BATCH):
        domain, label = int(batch["domain"][i]), int(batch["label"][i])
        target = label + (SIZES["apples"] if head.joint and domain else 0)
        rows = head.class_weights[0 if head.joint else domain].numpy().astype(np.float64)
        rows = rows.reshape(-1, head.num_subcenters, DIM)
        for prefix in prefixes:
            x = embedding[i, :prefix].astype(np.float64)
            logits = []
            for c, centers in enumerate(rows):
                cosines = [
                    x @ w[:prefix] / np.linalg.norm(x) / np.linalg.norm(w[:prefix]) for w in centers
                ]
                logits.append(SCALE * (max(cosines) - MARGIN * (c == target)))
            losses[i] += np.log(np.sum(np.exp(logits))) - logits[target]
    return losses


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("softmax_impl", ["full", "chunked"])
@pytest.mark.parametrize("num_subcenters", [1, 2])
def test_loss_is_the_sum_over_prefixes(joint, softmax_impl, num_subcenters):
    embedding, batch = make_batch()
    options = {"joint": joint, "softmax_impl": softmax_impl, "num_subcenters": num_subcenters}
    loss = make_loss(margin_type="cosface", **options)
    if softmax_impl == "chunked":
        loss.head.chunk_size = 4
    expected = naive_sum(loss, embedding, batch, (2, 4, DIM))
    np.testing.assert_allclose(compute(loss, embedding, batch), expected, rtol=2e-5)


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize(
    ("options", "smoothing"),
    [({"num_sampled_classes": 4}, 0.0), ({"margin_type": "arcface"}, 0.1)],
)
def test_each_prefix_has_the_loss_of_a_head_of_that_size(joint, options, smoothing):
    embedding, batch = make_batch()
    loss = make_loss(joint=joint, **options)
    seed = class_seed(loss.seed, tf.constant(3, tf.int64), purpose="student")
    expected = np.zeros(BATCH)
    for prefix in (2, 4, DIM):
        head = MarginHead(
            SIZES,
            prefix,
            margin_type=loss.head.margin_type,
            margin=MARGIN,
            scale=SCALE,
            joint=joint,
            num_sampled_classes=options.get("num_sampled_classes"),
        )
        for small, whole in zip(head.class_weights, loss.head.class_weights, strict=True):
            small.assign(whole[:, :prefix])
        arguments = (embedding[:, :prefix], batch["label"], batch["domain"])
        expected += head(*arguments, label_smoothing=smoothing, seed=seed).numpy()
    np.testing.assert_allclose(compute(loss, embedding, batch, smoothing), expected, rtol=1e-5)


def test_no_prefixes_are_the_whole_embedding():
    embedding, batch = make_batch()
    loss = make_loss(prefixes=())
    expected = naive_sum(loss, embedding, batch, (DIM,))
    np.testing.assert_allclose(compute(loss, embedding, batch), expected, rtol=2e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prefixes": (2, 4)}, r"\(2, 4\); give rising .* up to all 8"),
        ({"prefixes": (4, 2, 8)}, "rising"),
        ({"prefixes": (0, 8)}, "rising"),
        ({"prefixes": (4, 8), "sharded": True}, "sharded classes do not support"),
    ],
)
def test_wrong_prefixes_are_one_line(fields, message):
    with pytest.raises(UserError, match=message):
        make_loss(**fields)
