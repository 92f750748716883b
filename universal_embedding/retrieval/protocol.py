"""UnED's protocols (arXiv 2309.01858): queries of many domains, searched merged and separately."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from absl import logging

from universal_embedding.retrieval import metrics as metrics_lib
from universal_embedding.retrieval.exact import exact
from universal_embedding.retrieval.gallery import DomainEmbeddings, Gallery
from universal_embedding.retrieval.neighbours import Neighbours, recall
from universal_embedding.retrieval.relevance import Relevance

KEPT = 5  # neighbours of each query that are kept, to be shown
PROTOCOLS = ("merged", "separate")
_HELD = 1 << 24  # neighbours held at once
_SAMPLE = 1000  # queries on which the recall of an approximate search is measured


@dataclass(frozen=True)
class DomainResult:
    """How each query of one domain fared.

    Attributes:
        values: For each metric `[Q]` float64, NaN where nothing in the index is relevant.
        counts: `[Q]` int64, relevant index pictures of each query (n_q).
        neighbours: `[Q, KEPT]` int64, picture numbers within the neighbour's domain; -1 for none.
        domains: `[Q, KEPT]` int16, position of the neighbour's domain among the sorted keys.
        relevant: `[Q, KEPT]` bool.
        scores: `[Q, KEPT]` float32, cosine similarities.
    """

    values: dict[str, np.ndarray]
    counts: np.ndarray
    neighbours: np.ndarray
    domains: np.ndarray
    relevant: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Results:
    """One protocol: the results of each domain, and how the search went.

    Attributes:
        domains: By domain key, in the caller's order.
        search: `exact`, `index_size`, `build_seconds`, `query_seconds`, `queries_per_second`; of
            an approximate search also `recall_at_5` and the number of queries it was measured on,
            `recall_sample`; `curve`, see `ScannTree.trade_offs`, and `exact_queries_per_second`,
            of the largest index.
    """

    domains: dict[str, DomainResult]
    search: dict[str, float | int | bool]


def run(
    domains: Mapping[str, DomainEmbeddings],
    protocol: str = "merged",
    metrics: Sequence[str] = metrics_lib.DEFAULT,
    search: Callable[[], Neighbours] = exact,
) -> Results:
    """Searches every query and measures it.

    Args:
        domains: Queries and index by domain key.
        protocol: `merged`, one index of all domains, or `separate`, the query's own domain only.
            Given a specialist's embeddings for each domain, `separate` is specialist + oracle.
        metrics: Names as `metrics.parse` takes them.
        search: Makes the neighbours that are used, new for each index.
    """
    wanted = [metrics_lib.parse(name) for name in metrics]
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol is {protocol!r}; it must be one of {PROTOCOLS}")
    groups = [domains] if protocol == "merged" else [{key: domains[key]} for key in domains]
    results, searches = {}, []
    for group in groups:
        found, timing = _run_group(group, wanted, search)
        results |= found
        searches.append(timing)
    return Results({key: results[key] for key in domains}, _sum(searches))


def _run_group(
    domains: Mapping[str, DomainEmbeddings],
    metrics: Sequence[metrics_lib.Metric],
    search: Callable[[], Neighbours],
) -> tuple[dict[str, DomainResult], dict]:
    gallery = Gallery.of(domains)
    neighbours = search()
    began = time.perf_counter()
    neighbours.index(gallery.embeddings)
    built = time.perf_counter()
    results = {}
    for number, key in enumerate(sorted(domains)):
        results[key] = _run_domain(number, key, domains[key], gallery, neighbours, metrics)
        if len(gallery.embeddings) > 500_000:
            logging.info("searched %s: %d queries", key, len(domains[key].query))
    done = time.perf_counter()
    timing = {
        "exact": neighbours.is_exact,
        "index_size": len(gallery.embeddings),
        "queries": sum(len(domain.query) for domain in domains.values()),
        "build_seconds": built - began,
        "query_seconds": done - built,
    }
    if not neighbours.is_exact:
        timing |= _recall(domains, gallery, neighbours)
    return results, timing


def _run_domain(
    number: int,
    key: str,
    domain: DomainEmbeddings,
    gallery: Gallery,
    neighbours: Neighbours,
    metrics: Sequence[metrics_lib.Metric],
) -> DomainResult:
    queries = len(domain.query)
    own = domain.own
    relevance = Relevance(domain.query_labels, domain.searched[1], own)
    depth = max(KEPT, *(metric.depth(relevance.counts) for metric in metrics))
    exclude = np.where(own >= 0, gallery.places[key][own], -1)
    result = DomainResult(
        {metric.name: np.full(queries, np.nan) for metric in metrics},
        relevance.counts,
        np.full((queries, KEPT), -1, np.int64),
        np.full((queries, KEPT), -1, np.int16),
        np.zeros((queries, KEPT), bool),
        np.zeros((queries, KEPT), np.float32),
    )
    step = max(1, _HELD // depth)
    for start in range(0, queries, step):
        here = np.arange(start, min(start + step, queries))
        ids, scores = neighbours.query(domain.query[here], depth, exclude[here])
        of_domain = np.where(ids >= 0, gallery.domains[ids], -1)
        records = np.where(ids >= 0, gallery.records[ids], -1)
        relevant = relevance.of(here, np.where(of_domain == number, records, -1))
        counted = relevance.counts[here] > 0
        for metric in metrics:
            values = metric.of(relevant[counted], relevance.counts[here[counted]])
            result.values[metric.name][here[counted]] = values
        result.neighbours[here] = records[:, :KEPT]
        result.domains[here] = of_domain[:, :KEPT]
        result.relevant[here] = relevant[:, :KEPT]
        result.scores[here] = scores[:, :KEPT]
    return result


def _recall(
    domains: Mapping[str, DomainEmbeddings], gallery: Gallery, neighbours: Neighbours
) -> dict:
    """Recall of an approximate search against the exact one, on some queries of all domains."""
    queries = np.concatenate([domain.query for domain in domains.values()])
    some = np.random.default_rng(0).permutation(len(queries))[:_SAMPLE]
    best = exact()
    best.index(gallery.embeddings)
    began = time.perf_counter()
    truth, _ = best.query(queries[some], min(5, len(gallery.embeddings)))
    rate = len(some) / (time.perf_counter() - began)
    found, _ = neighbours.query(queries[some], truth.shape[1])
    return {
        "recall_at_5": recall(found, truth),
        "recall_sample": len(some),
        "exact_queries_per_second": rate,
        "curve": neighbours.trade_offs(queries[some], truth),
    }


def _sum(searches: Sequence[dict]) -> dict:
    total = {
        "exact": all(s["exact"] for s in searches),
        "index_size": max(s["index_size"] for s in searches),
        "build_seconds": sum(s["build_seconds"] for s in searches),
        "query_seconds": sum(s["query_seconds"] for s in searches),
    }
    queries = sum(s["queries"] for s in searches)
    total["queries_per_second"] = queries / max(total["query_seconds"], 1e-9)
    approximate = [s for s in searches if not s["exact"]]
    if approximate:
        total["recall_sample"] = sum(s["recall_sample"] for s in approximate)
        largest = max(approximate, key=lambda s: s["index_size"])
        total |= {key: largest[key] for key in ("exact_queries_per_second", "curve")}
        hits = sum(s["recall_at_5"] * s["recall_sample"] for s in approximate)
        total["recall_at_5"] = hits / total["recall_sample"]
    return total
