"""Two evaluations of the same queries: the difference and its interval."""

import numpy as np

from universal_embedding.retrieval import bootstrap
from universal_embedding.retrieval.protocol import Results


def difference(
    results: Results, baseline: Results, resamples: int = bootstrap.RESAMPLES
) -> dict[str, dict[str, dict | None]]:
    """How much better `results` are than `baseline`, paired query by query.

    Returns:
        `{"<domain>": {"<metric>": {"difference": float, "interval": [low, high]}}, ..., "mean":
        ...}`, the mean being unweighted over domains; None where no query counts.
    """
    names = list(next(iter(results.domains.values())).values)
    changes = {
        key: {name: result.values[name] - baseline.domains[key].values[name] for name in names}
        for key, result in results.domains.items()
    }
    summary = {
        key: {name: _entry([values], resamples) for name, values in change.items()}
        for key, change in changes.items()
    }
    summary["mean"] = {
        name: _entry([change[name] for change in changes.values()], resamples) for name in names
    }
    return summary


def _entry(domains: list[np.ndarray], resamples: int) -> dict | None:
    counted = [values[~np.isnan(values)] for values in domains]
    counted = [values for values in counted if len(values)]
    if not counted:
        return None
    return {
        "difference": float(np.mean([values.mean() for values in counted])),
        "interval": bootstrap.mean_interval(counted, resamples),
    }
