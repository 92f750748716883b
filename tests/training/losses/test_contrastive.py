"""Losses on pairs of labels, against loops over the papers' formulas."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.loss_batches import loss_gradient, loss_values, make_loss, random_batch


def positives_and_negatives(batch, i):
    keys = list(zip(batch["domain"], batch["label"], strict=True))
    rest = [j for j in range(len(keys)) if j != i]
    return [j for j in rest if keys[j] == keys[i]], [j for j in rest if keys[j] != keys[i]]


def naive_supcon(batch, i, temperature):
    positives, negatives = positives_and_negatives(batch, i)
    if not positives:
        return 0.0
    value = {
        j: math.exp(batch["student"][i] @ batch["student"][j] / temperature)
        for j in positives + negatives
    }
    return np.mean([-math.log(value[j] / sum(value.values())) for j in positives])


BATCHES = st.builds(
    random_batch,
    st.integers(0, 2**32 - 1),
    size=st.integers(1, 12),
    num_domains=st.integers(1, 3),
    num_classes=st.integers(1, 4),
)


@given(BATCHES, st.sampled_from([0.1, 0.5]))
def test_supcon_equals_naive_loop(batch, temperature):
    loss = make_loss("supcon", temperature=temperature)
    expected = [naive_supcon(batch, i, temperature) for i in range(len(batch["label"]))]
    np.testing.assert_allclose(loss_values(loss, batch), expected, rtol=1e-4, atol=1e-5)


def naive_multi_similarity(batch, i, alpha, beta, base, epsilon):
    similarity = batch["student"] @ batch["student"][i]
    positives, negatives = positives_and_negatives(batch, i)
    nearest = max((similarity[j] for j in negatives), default=-2)
    farthest = min((similarity[j] for j in positives), default=2)
    pulled = [j for j in positives if similarity[j] < nearest + epsilon]
    pushed = [j for j in negatives if similarity[j] > farthest - epsilon]
    return (
        math.log(1 + sum(math.exp(-alpha * (similarity[j] - base)) for j in pulled)) / alpha
        + math.log(1 + sum(math.exp(beta * (similarity[j] - base)) for j in pushed)) / beta
    )


@given(BATCHES)
def test_multi_similarity_equals_naive_loop(batch):
    anchors = range(len(batch["label"]))
    expected = [naive_multi_similarity(batch, i, 2.0, 50.0, 0.5, 0.1) for i in anchors]
    np.testing.assert_allclose(
        loss_values(make_loss("multi_similarity"), batch), expected, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("name", ["multi_similarity", "supcon"])
@pytest.mark.parametrize("labels", [[0, 0, 0, 0], [0, 1, 2, 3]])
def test_loss_and_gradient_are_finite_without_negatives_or_positives(name, labels):
    batch = random_batch(0, size=4, num_domains=1)
    batch["label"] = np.array(labels, np.int32)
    assert np.isfinite(loss_values(make_loss(name), batch)).all()
    assert np.isfinite(loss_gradient(make_loss(name), batch)).all()
