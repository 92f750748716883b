"""Fits the standardization of a model to the features of the training images."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from universal_embedding.training.data import read_features

if TYPE_CHECKING:
    from universal_embedding.training.experiment import Experiment

ROWS_AT_ONCE = 4096
RowsByDomain = Mapping[str, np.ndarray]


def fit_standardization(experiment: "Experiment", show_progress: bool = True) -> None:
    """Fits the model's standardization, if it has one without statistics; each host must call it.

    A domain counts as much as the first stage samples it. Features are those of the cache: they are
    computed here if no earlier run has, also where the stages train on images.

    Raises:
        UserError: the features cannot be kept, or an image cannot be decoded.
    """
    layer = experiment.model.standardization
    if layer is None or layer.is_fitted:
        return
    stage = experiment.stages[0]
    records = experiment.stage_records(stage)
    towers = read_features(experiment, records, show_progress)
    weights = experiment.domain_weights(stage)
    layer.fit(
        lambda function: weighted_mean(function, towers, weights), sum(map(len, records.values()))
    )


def weighted_mean(
    function: Callable[[np.ndarray], np.ndarray],
    towers: Sequence[RowsByDomain],
    weights: Mapping[str, float],
) -> np.ndarray:
    """The mean of a function of features, each domain with its weight.

    Args:
        function: `[n, F]` -> `[n, G]`, row by row.
        towers: `[N_d, F_i]` by domain of each backbone, which are joined to `[N_d, F]`.
        weights: By domain; their sum is 1.

    Returns:
        `[G]` float64.
    """
    total = np.zeros(())
    for domain in towers[0]:
        sums = [np.sum(function(block), axis=0) for block in _blocks(towers, domain)]
        total = total + weights[domain] / len(towers[0][domain]) * np.sum(sums, axis=0)
    return total


def _blocks(towers: Sequence[RowsByDomain], domain: str) -> Iterator[np.ndarray]:
    for start in range(0, len(towers[0][domain]), ROWS_AT_ONCE):
        parts = [rows[domain][start : start + ROWS_AT_ONCE] for rows in towers]
        yield np.concatenate(parts, axis=1).astype(np.float64)
