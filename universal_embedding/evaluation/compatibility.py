"""Compatibility of models: queries of one model, the index of another; and indexes of two models.

With models ordered from the oldest to the newest, M[i][j] is a metric of the queries of model i in
the index of model j. Model i is compatible with j < i if M[i][j] > M[j][j]: the old index serves
the new model's queries better than it served the old ones (Shen et al., "Towards
Backward-Compatible Representation Learning", CVPR 2020).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from universal_embedding.errors import UserError
from universal_embedding.evaluation.embeddings import DomainEmbeddings
from universal_embedding.evaluation.evaluate import EvaluationConfig, EvaluationResult
from universal_embedding.evaluation.protocol import ProtocolResult, run_protocol
from universal_embedding.evaluation.statistics import paired_difference, summarize

MOVED_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
Domains = Mapping[str, DomainEmbeddings]


@dataclass(frozen=True)
class CompatibilityResult:
    """Retrieval across models, on one merged index.

    Attributes:
        names: Names of the models, from the oldest to the newest.
        pairs: By (query model, index model), the latter not newer than the former.
        moved: For each share of the oldest index that the newest model embedded again, the results
            of the newest model's queries.
    """

    names: tuple[str, ...]
    pairs: dict[tuple[int, int], ProtocolResult]
    moved: dict[float, ProtocolResult]


def evaluate_compatibility(
    results: Sequence[EvaluationResult],
    config: EvaluationConfig,
    moved_shares: Sequence[float] = MOVED_SHARES,
) -> CompatibilityResult:
    """Searches the queries of each model in its own index and in those of older models.

    Args:
        results: Models evaluated on the same records, from the oldest to the newest.
        config: Metrics and search.
        moved_shares: Shares of the oldest index, 0 to 1, that the newest model embedded again.

    Raises:
        UserError: There are fewer than two models, or their embeddings differ in size.
    """
    sizes = {result.name: _size(result.domains) for result in results}
    if len(results) < 2 or len(set(sizes.values())) > 1:
        raise UserError(
            f"compatibility is measured between models of one embedding size, oldest first; "
            f"there are {', '.join(f'{name} ({size}-d)' for name, size in sizes.items())}"
        )

    def search(domains: Domains) -> ProtocolResult:
        return run_protocol(domains, "merged", config.metrics, config.search)

    domains = [result.domains for result in results]
    pairs = {
        (i, j): search(pair_domains(domains[i], domains[j]))
        for i in range(len(results))
        for j in range(i + 1)
    }
    moved = {
        share: search(pair_domains(domains[-1], mix_indexes(domains[0], domains[-1], share)))
        for share in moved_shares
    }
    return CompatibilityResult(tuple(sizes), pairs, moved)


def pair_domains(queries: Domains, indexes: Domains) -> dict[str, DomainEmbeddings]:
    """Joins the queries of one model with the indexes of another, over the same records."""
    return {
        key: _with_index(queries[key], indexes[key].index_embeddings[0], indexes[key])
        for key in queries
    }


def mix_indexes(old: Domains, new: Domains, share: float, seed: int = 0) -> dict:
    """Replaces a share of each domain's index rows of `old` by those of `new`.

    Rows that are replaced at one share are replaced at every larger share.
    """
    mixed = {}
    for number, (key, domain) in enumerate(old.items()):
        rows = domain.index_embeddings[0].copy()
        order = np.random.default_rng((seed, number)).permutation(len(rows))
        moved = order[: round(share * len(rows))]
        rows[moved] = new[key].index_embeddings[0][moved]
        mixed[key] = _with_index(domain, rows, domain)
    return mixed


def _with_index(
    queries: DomainEmbeddings, rows: np.ndarray, index: DomainEmbeddings
) -> DomainEmbeddings:
    """The queries of one with the index of another, whose images are `rows` of another model."""
    query_ids, index_ids = index.query_ids, index.index_ids
    if index.index is None:
        query_ids = index_ids = np.arange(len(rows))  # each query is itself in the index
    return DomainEmbeddings(
        queries.query,
        queries.query_labels,
        rows,
        index.index_embeddings[1],
        query_ids,
        index_ids,
    )


def compatibility_report(result: CompatibilityResult, config: EvaluationConfig) -> dict[str, Any]:
    """Means over domains, for report.json.

    Returns:
        `models`; `matrix`, by metric the lower triangle as rows of `{"value", "ci95"}`; by metric
        `average_compatibility` (AC), the share of pairs i > j with M[i][j] > M[j][j], and
        `average_metric` (AA), the mean of the lower triangle; `differences`, M[i][j] - M[j][j] of
        these pairs, paired query by query; `moved`, `{"share", metric: {"value", "ci95"}}`.
    """
    summaries = {
        pair: summarize(protocol, config.bootstrap_samples)["mean"]
        for pair, protocol in result.pairs.items()
    }
    count = len(result.names)
    older = [pair for pair in summaries if pair[0] > pair[1]]
    return {
        "models": list(result.names),
        "matrix": {
            metric: [[_entry(summaries[i, j], metric) for j in range(i + 1)] for i in range(count)]
            for metric in config.metrics
        },
        "average_compatibility": {
            metric: float(
                np.mean(
                    [
                        _value(summaries[i, j], metric) > _value(summaries[j, j], metric)
                        for i, j in older
                    ]
                )
            )
            for metric in config.metrics
        },
        "average_metric": {
            metric: float(np.mean([_value(mean, metric) for mean in summaries.values()]))
            for metric in config.metrics
        },
        "differences": [
            {
                "queries": result.names[i],
                "index": result.names[j],
                **paired_difference(
                    result.pairs[i, j], result.pairs[j, j], max(config.bootstrap_samples, 1)
                )["mean"],
            }
            for i, j in older
        ],
        "moved": [
            {"share": share, **{metric: _entry(mean, metric) for metric in config.metrics}}
            for share, protocol in result.moved.items()
            for mean in [summarize(protocol, config.bootstrap_samples)["mean"]]
        ],
    }


def _entry(mean: Mapping[str, Any], metric: str) -> dict[str, Any]:
    return {"value": mean[metric], "ci95": mean.get("ci95", {}).get(metric)}


def _value(mean: Mapping[str, Any], metric: str) -> float:
    return float("nan") if mean[metric] is None else mean[metric]


def _size(domains: Domains) -> int:
    return next(iter(domains.values())).query.shape[1]
