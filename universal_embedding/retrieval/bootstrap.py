"""95 % intervals of means, by resampling the queries (percentile bootstrap, Efron 1979)."""

from collections.abc import Sequence

import numpy as np

RESAMPLES = 1000


def resampled_means(values: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Means of `resamples` samples, drawn with replacement, of `values` `[Q]`, Q >= 1.

    Metrics take few different values, so how often each is drawn is one multinomial draw.
    """
    different, counts = np.unique(values, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(
        len(values), counts / len(values), size=resamples
    )
    return draws @ different / len(values)


def interval(means: np.ndarray) -> list[float]:
    """The middle 95 % of resampled means."""
    low, high = np.percentile(means, [2.5, 97.5])
    return [float(low), float(high)]


def mean_interval(domains: Sequence[np.ndarray], resamples: int = RESAMPLES) -> list[float]:
    """Interval of the unweighted mean over domains, each resampled by itself."""
    means = [resampled_means(values, resamples, seed) for seed, values in enumerate(domains)]
    return interval(np.mean(means, axis=0))
