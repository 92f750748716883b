"""Losses on pairs of labels, against loops over the papers' formulas."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import naive_losses
from tests.helpers.loss_batches import loss_gradient, loss_values, make_loss, random_batch

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
    expected = [naive_losses.supcon(batch, i, temperature) for i in range(len(batch["label"]))]
    np.testing.assert_allclose(loss_values(loss, batch), expected, rtol=1e-4, atol=1e-5)


@given(BATCHES)
def test_multi_similarity_equals_naive_loop(batch):
    anchors = range(len(batch["label"]))
    expected = [naive_losses.multi_similarity(batch, i) for i in anchors]
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
