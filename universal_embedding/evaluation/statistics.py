"""Means over queries, their bootstrap intervals, and paired differences of two evaluations."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from universal_embedding.evaluation.protocol import DomainResult, ProtocolResult

BOOTSTRAP_SAMPLES = 1000


def bootstrap_means(
    values: np.ndarray, bootstrap_samples: int = BOOTSTRAP_SAMPLES, seed: int = 0
) -> np.ndarray:
    """Resamples `values` `[Q]`, Q >= 1, with replacement (Efron 1979).

    Metrics take few different values, so how often each occurs in a sample is one multinomial
    variable.

    Returns:
        `[bootstrap_samples]` float64, the mean of each sample.
    """
    unique, counts = np.unique(values, return_counts=True)
    sampled_counts = np.random.default_rng(seed).multinomial(
        len(values), counts / len(values), size=bootstrap_samples
    )
    return sampled_counts @ unique / len(values)


def percentile_interval(means: np.ndarray) -> list[float]:
    """Returns `[low, high]`, the middle 95 % of bootstrap means."""
    low, high = np.percentile(means, [2.5, 97.5])
    return [float(low), float(high)]


def ci95(
    values_by_domain: Sequence[np.ndarray], bootstrap_samples: int = BOOTSTRAP_SAMPLES
) -> list[float]:
    """Computes the 95 % confidence interval of an unweighted mean over domains.

    Args:
        values_by_domain: For each domain `[Q_d]`, Q_d >= 1; each is resampled on its own.
        bootstrap_samples: Number of samples.

    Returns:
        `[low, high]`.
    """
    means = [
        bootstrap_means(values, bootstrap_samples, seed)
        for seed, values in enumerate(values_by_domain)
    ]
    return percentile_interval(np.mean(means, axis=0))


def query_scores(result: DomainResult) -> dict[str, np.ndarray]:
    """Selects each metric's values of the queries that have a relevant index image."""
    return {name: values[result.num_positives > 0] for name, values in result.metrics.items()}


def summarize(result: ProtocolResult, bootstrap_samples: int = 0) -> dict[str, dict[str, Any]]:
    """Averages over the queries of each domain, and without weights over domains.

    Args:
        result: One protocol's results.
        bootstrap_samples: Samples behind the 95 % intervals; 0 for none.

    Returns:
        `{"<domain>": {"r_at_1": ..., "num_queries": ..., "num_queries_without_positives": ...},
        ..., "mean": ...}`. `num_queries` counts all queries; those without positives count in no
        metric. A domain in which no query has a positive has None, and is not in the mean, whose
        `num_domains` counts the others. With `bootstrap_samples`, `ci95` holds `[low, high]` per
        metric.
    """
    scores = {key: query_scores(domain) for key, domain in result.domains.items()}
    summary: dict[str, dict[str, Any]] = {}
    for key, domain in result.domains.items():
        summary[key] = {
            **{name: float(v.mean()) if len(v) else None for name, v in scores[key].items()},
            "num_queries": len(domain.num_positives),
            "num_queries_without_positives": int((domain.num_positives == 0).sum()),
        }
        if bootstrap_samples:
            summary[key]["ci95"] = {
                name: ci95([v], bootstrap_samples) if len(v) else None
                for name, v in scores[key].items()
            }
    summary["mean"] = _mean(list(scores.values()), list(summary.values()), bootstrap_samples)
    return summary


def _mean(
    scores: Sequence[dict[str, np.ndarray]],
    entries: Sequence[dict[str, Any]],
    bootstrap_samples: int,
) -> dict[str, Any]:
    names = list(scores[0])
    counted = [domain for domain in scores if len(domain[names[0]])]
    mean: dict[str, Any] = {
        name: float(np.mean([domain[name].mean() for domain in counted])) if counted else None
        for name in names
    }
    for count in ("num_queries", "num_queries_without_positives"):
        mean[count] = sum(entry[count] for entry in entries)
    mean["num_domains"] = len(counted)
    if bootstrap_samples and counted:
        mean["ci95"] = {
            name: ci95([domain[name] for domain in counted], bootstrap_samples) for name in names
        }
    return mean


def domain_confusion(result: ProtocolResult) -> dict[str, dict[str, int]]:
    """Counts, for each domain, from which domains its wrong first neighbors come."""
    keys = sorted(result.domains)
    table = {}
    for key, domain in result.domains.items():
        is_wrong = (domain.num_positives > 0) & ~domain.relevant[:, 0]
        first_domains = domain.neighbor_domains[is_wrong, 0]
        table[key] = {
            neighbor_key: int((first_domains == keys.index(neighbor_key)).sum())
            for neighbor_key in result.domains
        }
    return table


def paired_difference(
    result: ProtocolResult,
    baseline: ProtocolResult,
    bootstrap_samples: int = BOOTSTRAP_SAMPLES,
) -> dict[str, dict[str, dict[str, Any] | None]]:
    """Measures how much better `result` is than `baseline`, paired query by query.

    Returns:
        `{"<domain>": {"<metric>": {"difference": float, "ci95": [low, high]}}, ..., "mean": ...}`,
        the mean being unweighted over domains; None where no query has a positive.
    """
    names = list(next(iter(result.domains.values())).metrics)
    changes = {
        key: {name: domain.metrics[name] - baseline.domains[key].metrics[name] for name in names}
        for key, domain in result.domains.items()
    }
    summary = {
        key: {name: _difference([values], bootstrap_samples) for name, values in change.items()}
        for key, change in changes.items()
    }
    summary["mean"] = {
        name: _difference([change[name] for change in changes.values()], bootstrap_samples)
        for name in names
    }
    return summary


def _difference(
    changes_by_domain: Sequence[np.ndarray], bootstrap_samples: int
) -> dict[str, Any] | None:
    counted = [values[~np.isnan(values)] for values in changes_by_domain]
    counted = [values for values in counted if len(values)]
    if not counted:
        return None
    return {
        "difference": float(np.mean([values.mean() for values in counted])),
        "ci95": ci95(counted, bootstrap_samples),
    }
