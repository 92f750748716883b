"""Whole runs on one and on two replicas: the same images in each step, and the same numbers."""

import numpy as np
import pytest

from tests.helpers.steps import state_of
from universal_embedding.training.config import stage
from universal_embedding.training.hooks import default_hooks
from universal_embedding.training.metric_writer import read_rows
from universal_embedding.training.strategy import mirrored
from universal_embedding.training.trainer import train

RATES = {"projection_lr": 1e-1, "head_lr": 1e-1, "schedule": "constant"}


@pytest.fixture
def config(config):
    config.optimizer.name = "sgd"  # linear in the gradients, which differ by rounding
    config.log_every_steps = 1
    return config


def compare_runs(make_experiment, jit_compile=False):
    """Trains on one replica and on two; returns the rows of the metrics."""
    results = []
    for name, strategy in [("one", None), ("two", mirrored(2))]:
        experiment = make_experiment(name, strategy, jit_compile=jit_compile)
        assert train(experiment, default_hooks(experiment))
        results.append((read_rows(experiment.workdir / "metrics.jsonl"), state_of(experiment)))
    (rows, state), (other_rows, other_state) = results
    for row, other in zip(rows, other_rows, strict=True):
        speeds = {n for n in row if n.startswith("time/")} | {"images_per_second"}
        assert row.get("data_fingerprint") == other.get("data_fingerprint")
        for name in row.keys() - speeds - {"data_fingerprint"}:
            assert other[name] == pytest.approx(row[name], rel=1e-4, abs=1e-6), name
    for owner, values in state.items():
        for value, other in zip(values, other_state[owner], strict=True):
            np.testing.assert_allclose(other, value, rtol=1e-4, atol=1e-5, err_msg=owner)
    return rows


@pytest.mark.slow
@pytest.mark.parametrize(
    ("batching", "jit_compile"),
    [
        ("mixed", False),
        pytest.param("per_domain", False, marks=pytest.mark.slow),
        pytest.param("mixed", True, marks=pytest.mark.slow),
    ],
)
def test_batches_of_classes_do_not_depend_on_replicas(
    make_experiment, config, batching, jit_compile
):
    """Batches of P classes with K images each; pairs of a class meet across replicas."""
    config.data.images_per_class = 3
    config.data.batching = batching
    config.losses.supcon.weight = config.losses.multi_similarity.weight = 1.0
    config.stages = (stage(steps=4, **RATES),)
    rows = compare_runs(make_experiment, jit_compile)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert len({row["data_fingerprint"] for row in rows}) == 4


@pytest.mark.slow
@pytest.mark.parametrize("batching", ["mixed", "per_domain"])
def test_reweighted_domains_do_not_depend_on_replicas(make_experiment, config, batching):
    config.data.batching = batching
    config.data.reweight_every_steps = 3
    config.data.reweight_by = "classification"
    config.head.joint = False
    config.stages = (stage(steps=8, input="features", **RATES),)
    rows = compare_runs(make_experiment)
    assert sum("data_fingerprint" in row for row in rows) == 8
    weights = [row["weight/apples"] for row in rows if "weight/apples" in row]
    assert len(weights) == 2 and weights[0] != weights[1]
