"""From embeddings to the numbers of a report."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from universal_embedding.retrieval import bootstrap
from universal_embedding.retrieval.exact import exact
from universal_embedding.retrieval.gallery import DomainEmbeddings
from universal_embedding.retrieval.metrics import DEFAULT
from universal_embedding.retrieval.neighbours import Neighbours
from universal_embedding.retrieval.protocol import PROTOCOLS, DomainResult, Results, run


def evaluate(
    domains: Mapping[str, DomainEmbeddings],
    protocols: Sequence[str] = PROTOCOLS,
    metrics: Sequence[str] = DEFAULT,
    search: Callable[[], Neighbours] = exact,
    resamples: int = 0,
) -> dict:
    """Evaluates embeddings; arrays in, a report's numbers out.

    Args:
        domains: Queries and index by domain key.
        protocols: Some of `merged` and `separate`.
        metrics: Such as `r_at_1`, `mmp_at_5`, `map_at_r`; see `metrics.parse`.
        search: Makes the neighbours that are used.
        resamples: Bootstrap samples of the 95 % intervals; 0 for none.

    Returns:
        `{protocol: summary}`; see `summarise`. The benchmark's number for selecting models is
        `evaluate(...)["merged"]["mean"]["r_at_1"]`.
    """
    return {
        protocol: summarise(run(domains, protocol, metrics, search), resamples)
        for protocol in protocols
    }


def summarise(results: Results, resamples: int = 0) -> dict:
    """Means over queries for each domain, and their unweighted mean over domains.

    Returns:
        `{"<domain>": {"r_at_1": ..., "queries": ..., "without_relevant": ...}, ..., "mean": ...}`.
        `queries` counts all; the `without_relevant` ones among them are in no metric. A domain in
        which no query has a relevant picture has None, and is not in the mean, whose `domains`
        says how many are. With `resamples`, `interval` holds `[low, high]` for each metric.
    """
    summary = {}
    for key, result in results.domains.items():
        counted = counted_values(result)
        summary[key] = {
            **{name: float(v.mean()) if len(v) else None for name, v in counted.items()},
            "queries": len(result.counts),
            "without_relevant": int((result.counts == 0).sum()),
        }
        if resamples:
            summary[key]["interval"] = {
                name: bootstrap.mean_interval([v], resamples) if len(v) else None
                for name, v in counted.items()
            }
    summary["mean"] = _mean(results, summary, resamples)
    return summary


def counted_values(result: DomainResult) -> dict[str, np.ndarray]:
    """Each metric's values of the queries that have a relevant picture."""
    return {name: values[result.counts > 0] for name, values in result.values.items()}


def confusion(results: Results) -> dict[str, dict[str, int]]:
    """For every domain, how many of its wrong first neighbours come from which domain."""
    keys = sorted(results.domains)
    table = {}
    for key, result in results.domains.items():
        wrong = (result.counts > 0) & ~result.relevant[:, 0]
        came_from = result.domains[wrong, 0]
        table[key] = {
            other: int((came_from == keys.index(other)).sum()) for other in results.domains
        }
    return table


def _mean(results: Results, summary: dict, resamples: int) -> dict:
    parts = [counted_values(result) for result in results.domains.values()]
    names = list(parts[0])
    with_values = [part for part in parts if len(part[names[0]])]
    mean = {
        name: float(np.mean([part[name].mean() for part in with_values])) if with_values else None
        for name in names
    }
    mean["queries"] = sum(summary[key]["queries"] for key in results.domains)
    mean["without_relevant"] = sum(summary[key]["without_relevant"] for key in results.domains)
    mean["domains"] = len(with_values)
    if resamples and with_values:
        mean["interval"] = {
            name: bootstrap.mean_interval([part[name] for part in with_values], resamples)
            for name in names
        }
    return mean
