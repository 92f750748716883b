"""Losses on pairs of a class, against loops over the papers' formulas."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from teaching import gradient, losses, make, random_batch

from universal_embedding.training.objectives import multi_similarity, supervised_contrastive


def pairs(batch, i):
    key = list(zip(batch["domain"], batch["label"], strict=True))
    rest = [j for j in range(len(key)) if j != i]
    return [j for j in rest if key[j] == key[i]], [j for j in rest if key[j] != key[i]]


def naive_contrastive(batch, i, temperature):
    positives, negatives = pairs(batch, i)
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
    domains=st.integers(1, 3),
    classes=st.integers(1, 4),
)


@given(BATCHES, st.sampled_from([0.1, 0.5]))
def test_supervised_contrastive(batch, temperature):
    objective = make(supervised_contrastive, **{"pairs.temperature": temperature})
    expected = [naive_contrastive(batch, i, temperature) for i in range(len(batch["label"]))]
    np.testing.assert_allclose(losses(objective, batch), expected, rtol=1e-4, atol=1e-5)


def naive_multi_similarity(batch, i, alpha, beta, base, mining):
    similarity = batch["student"] @ batch["student"][i]
    positives, negatives = pairs(batch, i)
    nearest = max((similarity[j] for j in negatives), default=-2)
    farthest = min((similarity[j] for j in positives), default=2)
    pulled = [j for j in positives if similarity[j] < nearest + mining]
    pushed = [j for j in negatives if similarity[j] > farthest - mining]
    return (
        math.log(1 + sum(math.exp(-alpha * (similarity[j] - base)) for j in pulled)) / alpha
        + math.log(1 + sum(math.exp(beta * (similarity[j] - base)) for j in pushed)) / beta
    )


@given(BATCHES)
def test_multi_similarity(batch):
    numbers = range(len(batch["label"]))
    expected = [naive_multi_similarity(batch, i, 2.0, 50.0, 0.5, 0.1) for i in numbers]
    np.testing.assert_allclose(
        losses(make(multi_similarity), batch), expected, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("module", [multi_similarity, supervised_contrastive])
def test_a_batch_of_one_class_or_of_all_different_ones_gives_numbers(module):
    batch = random_batch(0, size=4, domains=1)
    for labels in ([0, 0, 0, 0], [0, 1, 2, 3]):
        batch["label"] = np.array(labels, np.int32)
        assert np.isfinite(losses(make(module), batch)).all()
        assert np.isfinite(gradient(make(module), batch)).all()
