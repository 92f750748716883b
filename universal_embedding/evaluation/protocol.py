"""UnED's protocols (arXiv 2309.01858): queries of many domains, searched merged and separately."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from absl import logging

from universal_embedding.evaluation.embeddings import DomainEmbeddings, MergedIndex
from universal_embedding.evaluation.metrics import (
    DEFAULT_METRICS,
    Metric,
    RelevanceLookup,
    parse_metric,
)
from universal_embedding.search.exact import exact_search
from universal_embedding.search.neighbors import NearestNeighbors, recall

PROTOCOLS = ("merged", "separate")
MAX_NEIGHBORS = 5  # neighbors kept per query by default, for display
_MAX_HELD_NEIGHBORS = 1 << 24  # neighbors of several queries held at once
_NUM_RECALL_QUERIES = 1000  # queries on which the recall of an approximate search is measured


@dataclass(frozen=True)
class DomainResult:
    """Outcome of each query of one domain; k is `max_neighbors` of `run_protocol`.

    Attributes:
        metrics: For each metric `[Q]` float64, NaN where nothing in the index is relevant.
        num_positives: `[Q]` int64, the number of relevant index images (n_q).
        neighbors: `[Q, k]` int64, positions in the index of the neighbor's domain, best first; -1
            for none.
        neighbor_domains: `[Q, k]` int16, position of the neighbor's domain among the sorted keys;
            -1 for none.
        relevant: `[Q, k]` bool.
        similarities: `[Q, k]` float32, cosine similarities.
    """

    metrics: dict[str, np.ndarray]
    num_positives: np.ndarray
    neighbors: np.ndarray
    neighbor_domains: np.ndarray
    relevant: np.ndarray
    similarities: np.ndarray


@dataclass(frozen=True)
class ProtocolResult:
    """Results of each domain under one protocol, and facts about the search.

    Attributes:
        domains: By domain key, in the caller's order.
        search: `is_exact`, `index_size`, `build_seconds`, `query_seconds`, `queries_per_second`.
            For an approximate search also `recall_at_5`, measured on `num_recall_queries` queries,
            and, of the largest index, `recall_speed_curve` (see `ScannIndex.recall_speed_curve`)
            and `exact_queries_per_second`.
    """

    domains: dict[str, DomainResult]
    search: dict[str, Any]


def run_protocol(
    domains: Mapping[str, DomainEmbeddings],
    protocol: str = "merged",
    metrics: Sequence[str] = DEFAULT_METRICS,
    search: Callable[[], NearestNeighbors] = exact_search,
    max_neighbors: int = MAX_NEIGHBORS,
) -> ProtocolResult:
    """Searches every query and measures its neighbors.

    Args:
        domains: Queries and index by domain key.
        protocol: `merged`, one index of all domains, or `separate`, only the query's domain. With
            the embeddings of a specialist for each domain, `separate` is specialist + oracle.
        metrics: Names; see `metrics.Metric`.
        search: Makes a search; called once per index.
        max_neighbors: Number of neighbors kept per query, at least 1.

    Raises:
        UserError: There is no such metric.
        ValueError: There is no such protocol.
    """
    parsed = [parse_metric(name) for name in metrics]
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol is {protocol!r}; it must be one of {PROTOCOLS}")
    groups = [domains] if protocol == "merged" else [{key: domains[key]} for key in domains]
    results: dict[str, DomainResult] = {}
    searches = []
    for group in groups:
        group_results, statistics = _run_group(group, parsed, search, max_neighbors)
        results |= group_results
        searches.append(statistics)
    if protocol == "separate":
        for domain_id, key in enumerate(sorted(domains)):
            neighbor_domains = results[key].neighbor_domains
            neighbor_domains[neighbor_domains >= 0] = domain_id  # was 0: alone in its group
    return ProtocolResult({key: results[key] for key in domains}, _combine(searches))


def _run_group(
    domains: Mapping[str, DomainEmbeddings],
    metrics: Sequence[Metric],
    search: Callable[[], NearestNeighbors],
    max_neighbors: int,
) -> tuple[dict[str, DomainResult], dict[str, Any]]:
    """Searches the queries of `domains` in one index of all of them."""
    index = MergedIndex.from_domains(domains)
    neighbors = search()
    start = time.perf_counter()
    neighbors.index(index.embeddings)
    built = time.perf_counter()
    results = {}
    for domain_id, key in enumerate(sorted(domains)):
        exclude = _rows_of_queries(domains[key], index.rows_by_domain[key])
        results[key] = _run_domain(
            domain_id, domains[key], index, neighbors, exclude, metrics, max_neighbors
        )
        if len(index.embeddings) > 500_000:
            logging.info("searched %s: %d queries", key, len(domains[key].query))
    done = time.perf_counter()
    statistics = {
        "is_exact": neighbors.is_exact,
        "index_size": len(index.embeddings),
        "num_queries": sum(len(domain.query) for domain in domains.values()),
        "build_seconds": built - start,
        "query_seconds": done - built,
    }
    if not neighbors.is_exact:
        statistics |= _compare_with_exact(domains, index, neighbors)
    return results, statistics


def _rows_of_queries(domain: DomainEmbeddings, rows: np.ndarray) -> np.ndarray:
    """`[Q]` int64, the row of the merged index that is the query itself, or -1."""
    return np.where(domain.self_index >= 0, rows[domain.self_index], -1)


def _run_domain(
    domain_id: int,
    domain: DomainEmbeddings,
    index: MergedIndex,
    neighbors: NearestNeighbors,
    exclude: np.ndarray,
    metrics: Sequence[Metric],
    max_neighbors: int,
) -> DomainResult:
    num_queries = len(domain.query)
    lookup = RelevanceLookup(domain.query_labels, domain.index_embeddings[1], domain.self_index)
    depth = max(max_neighbors, *(metric.depth(lookup.num_positives) for metric in metrics))
    result = DomainResult(
        {metric.name: np.full(num_queries, np.nan) for metric in metrics},
        lookup.num_positives,
        np.full((num_queries, max_neighbors), -1, np.int64),
        np.full((num_queries, max_neighbors), -1, np.int16),
        np.zeros((num_queries, max_neighbors), bool),
        np.zeros((num_queries, max_neighbors), np.float32),
    )
    step = max(1, _MAX_HELD_NEIGHBORS // depth)
    for start in range(0, num_queries, step):
        queries = np.arange(start, min(start + step, num_queries))
        rows, similarities = neighbors.query(domain.query[queries], depth, exclude[queries])
        neighbor_domains = np.where(rows >= 0, index.domains[rows], -1)
        records = np.where(rows >= 0, index.records[rows], -1)
        in_domain = np.where(neighbor_domains == domain_id, records, -1)
        relevant = lookup.relevant(queries, in_domain)
        num_positives = lookup.num_positives[queries]
        is_counted = num_positives > 0
        for metric in metrics:
            values = metric.compute(relevant[is_counted], num_positives[is_counted])
            result.metrics[metric.name][queries[is_counted]] = values
        result.neighbors[queries] = records[:, :max_neighbors]
        result.neighbor_domains[queries] = neighbor_domains[:, :max_neighbors]
        result.relevant[queries] = relevant[:, :max_neighbors]
        result.similarities[queries] = similarities[:, :max_neighbors]
    return result


def _compare_with_exact(
    domains: Mapping[str, DomainEmbeddings], index: MergedIndex, neighbors: NearestNeighbors
) -> dict[str, Any]:
    """Measures an approximate search against the exact one, on some queries of all domains."""
    queries = np.concatenate([domain.query for domain in domains.values()])
    sample = np.random.default_rng(0).permutation(len(queries))[:_NUM_RECALL_QUERIES]
    exact = exact_search()
    exact.index(index.embeddings)
    start = time.perf_counter()
    truth, _ = exact.query(queries[sample], min(5, len(index.embeddings)))
    queries_per_second = len(sample) / (time.perf_counter() - start)
    rows, _ = neighbors.query(queries[sample], truth.shape[1])
    return {
        "recall_at_5": recall(rows, truth),
        "num_recall_queries": len(sample),
        "exact_queries_per_second": queries_per_second,
        "recall_speed_curve": neighbors.recall_speed_curve(queries[sample], truth),
    }


def _combine(searches: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Combines the facts about the searches of several indexes."""
    combined = {
        "is_exact": all(s["is_exact"] for s in searches),
        "index_size": max(s["index_size"] for s in searches),
        "build_seconds": sum(s["build_seconds"] for s in searches),
        "query_seconds": sum(s["query_seconds"] for s in searches),
    }
    num_queries = sum(s["num_queries"] for s in searches)
    combined["queries_per_second"] = num_queries / max(combined["query_seconds"], 1e-9)
    approximate = [s for s in searches if not s["is_exact"]]
    if approximate:
        combined["num_recall_queries"] = sum(s["num_recall_queries"] for s in approximate)
        largest = max(approximate, key=lambda s: s["index_size"])
        for key in ("exact_queries_per_second", "recall_speed_curve"):
            combined[key] = largest[key]
        hits = sum(s["recall_at_5"] * s["num_recall_queries"] for s in approximate)
        combined["recall_at_5"] = hits / combined["num_recall_queries"]
    return combined
