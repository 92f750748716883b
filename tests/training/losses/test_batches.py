"""Every loss on pairs of images equals its loop, in all batches and on 1 and 2 replicas."""

import numpy as np
import pytest

from tests.helpers.loss_batches import make_loss, model_outputs, on_replicas, random_batch
from tests.helpers.naive_losses import NAIVE_LOSSES

# float32 cosines resolve the distance of close images to a few thousandths of it
TOLERANCES = {"rkd_distance": {"rtol": 2e-2, "atol": 2e-3}}


@pytest.mark.parametrize("num_replicas", [1, 2])
@pytest.mark.parametrize("per_domain", [False, True])
@pytest.mark.parametrize("name", NAIVE_LOSSES)
def test_loss_equals_naive_loop(name, per_domain, num_replicas):
    batch = random_batch(9)
    if per_domain:
        batch["domain"][:] = 1
    loss = make_loss(name)
    actual = on_replicas(
        lambda part: loss(part, model_outputs(part["student"])), batch, num_replicas=num_replicas
    )
    expected = [NAIVE_LOSSES[name](batch, i) for i in range(len(batch["domain"]))]
    assert np.ptp(expected) > 0
    np.testing.assert_allclose(
        actual, expected, **TOLERANCES.get(name, {"rtol": 1e-4, "atol": 1e-5})
    )
