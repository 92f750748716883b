"""From embeddings to scores: arrays in, numbers out; then whole sources, and their report."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from universal_embedding.datasets.examples import Labels
from universal_embedding.errors import UserError
from universal_embedding.evaluation.embed import (
    EmbeddingSource,
    QueryIndexRecords,
    embed_eval_sets,
    embed_unit_rows,
)
from universal_embedding.evaluation.embeddings import (
    DomainEmbeddings,
    correct_scores,
    normalize_rows,
)
from universal_embedding.evaluation.metrics import DEFAULT_METRICS, parse_metric
from universal_embedding.evaluation.protocol import PROTOCOLS, ProtocolResult, run_protocol
from universal_embedding.evaluation.statistics import (
    BOOTSTRAP_SAMPLES,
    domain_confusion,
    paired_difference,
    summarize,
)
from universal_embedding.search.exact import exact_search
from universal_embedding.search.neighbors import NearestNeighbors
from universal_embedding.versions import library_versions

if TYPE_CHECKING:
    from universal_embedding.datasets.records import Records

LabelsLike = Labels | np.ndarray | Sequence[int] | Sequence[str]
IdsLike = np.ndarray | Sequence[int] | Sequence[str]


def evaluate(
    queries: np.ndarray,
    index_embeddings: np.ndarray | None,
    query_labels: LabelsLike,
    index_labels: LabelsLike | None = None,
    metrics: Sequence[str] = DEFAULT_METRICS,
    *,
    query_ids: IdsLike | None = None,
    index_ids: IdsLike | None = None,
    search: Callable[[], NearestNeighbors] = exact_search,
    bootstrap_samples: int = 0,
) -> dict[str, Any]:
    """Measures how well embeddings retrieve images of the same class.

    Every query is searched in the index by cosine similarity; a neighbor is relevant if it shares
    a label with the query. With n_q the number of relevant index images of a query:

    - R@1 (`r_at_1`) is the fraction of queries whose first neighbor is relevant.
    - mMP@5 (`mmp_at_5`) is the mean over queries of (relevant among the first min(5, n_q)
      neighbors) / min(5, n_q): UnED's metric (arXiv 2309.01858), and equal to mP@5 of the Google
      Universal Image Embedding Challenge.

    Excluded are the query itself, by identity and not by rank or similarity (duplicates of it
    stay), and from the means the queries without relevant index images (n_q = 0). Ties between
    equal similarities go to the smaller label, then to the earlier row of the index.

        >>> evaluate(embeddings, None, ["cat", "cat", "dog"])  # leave-one-out
        {'r_at_1': 1.0, 'mmp_at_5': 1.0, 'num_queries': 3, 'num_queries_without_positives': 1}

    Args:
        queries: `[Q, D]`; rows are scaled to unit length.
        index_embeddings: `[N, D]`; rows are scaled to unit length. None for leave-one-out: each
            query is searched among the other queries.
        query_labels: `[Q]` ints or strings, or `Labels` where an image has several.
        index_labels: `[N]`, of the same kind; None for leave-one-out.
        metrics: Such as `r_at_1`, `mmp_at_5`, `map_at_r`; see `metrics.Metric`.
        query_ids: `[Q]` unique ids; with `index_ids`, a query that is also in the index is
            recognized as itself.
        index_ids: `[N]` unique ids.
        search: Makes the search; exact by default.
        bootstrap_samples: Samples behind the 95 % confidence intervals; 0 for none.

    Returns:
        The mean of each metric by name, None if every query is without positives; `num_queries`
        (all of them) and `num_queries_without_positives`; with `bootstrap_samples`, `ci95`:
        `[low, high]` by metric.

    Raises:
        UserError: There is no such metric.
        ValueError: Shapes do not fit each other, a number is not finite, or labels are neither
            ints nor strings.
    """
    if (query_ids is None) != (index_ids is None):
        raise ValueError("query_ids and index_ids must both be given, or both be None")
    labels, labels_of_index = _make_labels(query_labels, index_labels)
    domain = DomainEmbeddings(
        query=_unit_rows(queries),
        query_labels=labels,
        index=None if index_embeddings is None else _unit_rows(index_embeddings),
        index_labels=labels_of_index,
        query_ids=None if query_ids is None else _unique_ids("query_ids", query_ids, queries),
        index_ids=(
            None
            if index_ids is None or index_embeddings is None
            else _unique_ids("index_ids", index_ids, index_embeddings)
        ),
    )
    result = run_protocol({"queries": domain}, "separate", metrics, search)
    return summarize(result, bootstrap_samples)["queries"]


def _unit_rows(embeddings: np.ndarray) -> np.ndarray:
    embeddings = np.asarray(embeddings, np.float32)
    if embeddings.ndim != 2:
        raise ValueError(f"embeddings have shape {embeddings.shape}: they must be [N, D]")
    with np.errstate(invalid="ignore"):  # infinities become NaN, which DomainEmbeddings refuses
        return normalize_rows(embeddings)


def _unique_ids(name: str, ids: IdsLike, rows: np.ndarray) -> np.ndarray:
    array = np.asarray(ids)
    if array.shape != (len(rows),) or len(np.unique(array)) < len(array):
        raise ValueError(f"{name} must be {len(rows)} ids, all different")
    return array


def _make_labels(
    query_labels: LabelsLike, index_labels: LabelsLike | None
) -> tuple[Labels, Labels | None]:
    """Turns ints and strings into `Labels`; equal strings get equal ids, in their order."""
    groups = [query_labels] if index_labels is None else [query_labels, index_labels]
    arrays = [x if isinstance(x, Labels) else _label_array(x) for x in groups]
    strings = [x for x in arrays if isinstance(x, np.ndarray) and x.dtype.kind == "U"]
    if strings and len(strings) < len(arrays):
        raise ValueError("query_labels and index_labels must both be strings, or both be ints")
    if strings:
        _, ids = np.unique(np.concatenate(strings), return_inverse=True)
        arrays = [ids[: len(strings[0])], ids[len(strings[0]) :]]
    labels = [
        x if isinstance(x, Labels) else Labels(x.astype(np.int64), np.arange(len(x) + 1))
        for x in arrays
    ]
    return labels[0], None if index_labels is None else labels[1]


def _label_array(labels: np.ndarray | Sequence[int] | Sequence[str]) -> np.ndarray:
    """`[N]` of dtype int or str."""
    array = np.asarray(labels)
    if array.dtype.kind == "O":  # a column of pandas, for example
        array = np.asarray(array.tolist())
    if array.ndim != 1 or array.dtype.kind not in "biuU":
        raise ValueError(
            f"labels have shape {array.shape} and dtype {array.dtype}: give one int or str per "
            "image, or Labels.from_rows(...) where an image has several"
        )
    return array


def evaluate_domains(
    domains: Mapping[str, DomainEmbeddings],
    protocols: Sequence[str] = PROTOCOLS,
    metrics: Sequence[str] = DEFAULT_METRICS,
    search: Callable[[], NearestNeighbors] = exact_search,
    bootstrap_samples: int = 0,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Evaluates the embeddings of several domains.

    Args:
        domains: Queries and index by domain key.
        protocols: `merged`, `separate` or both; see `run_protocol`.
        metrics: Such as `r_at_1`, `mmp_at_5`, `map_at_r`; see `metrics.Metric`.
        search: Makes a search; called once per index.
        bootstrap_samples: Samples behind the 95 % confidence intervals; 0 for none.

    Returns:
        `{protocol: summary}`; see `summarize`. UnED selects models by
        `evaluate_domains(...)["merged"]["mean"]["r_at_1"]`.
    """
    return {
        protocol: summarize(run_protocol(domains, protocol, metrics, search), bootstrap_samples)
        for protocol in protocols
    }


@dataclass(frozen=True)
class EvaluationConfig:
    """Settings of an evaluation.

    Attributes:
        protocols: `merged`, `separate` or both.
        metrics: Names; see `metrics.Metric`.
        bootstrap_samples: Samples behind the 95 % confidence intervals; 0 for none.
        search: Makes a search; called once per index.
        bank: Records whose embeddings correct the scores of the index; see
            `search.score_correction`. None of them: plain cosine similarities.

    Raises:
        UserError: A metric or a protocol is unknown, or there is none.
    """

    protocols: Sequence[str] = PROTOCOLS
    metrics: Sequence[str] = DEFAULT_METRICS
    bootstrap_samples: int = BOOTSTRAP_SAMPLES
    search: Callable[[], NearestNeighbors] = exact_search
    bank: Sequence["Records"] = ()

    def __post_init__(self) -> None:
        for name in self.metrics:
            parse_metric(name)
        unknown = [name for name in self.protocols if name not in PROTOCOLS]
        if unknown or not self.protocols or not self.metrics:
            raise UserError(
                f"protocols are {list(self.protocols)} and metrics {list(self.metrics)}: give at "
                f"least one of each, protocols among {', '.join(PROTOCOLS)}"
            )


@dataclass(frozen=True)
class EvaluationResult:
    """One evaluated source.

    Attributes:
        name: The source's name.
        domains: Its embeddings by domain key.
        results: By protocol; `specialist_oracle` for specialists.
        transform: Facts about a map of the embeddings that was fitted on training images, or None.
    """

    name: str
    domains: dict[str, DomainEmbeddings]
    results: dict[str, ProtocolResult]
    transform: dict[str, Any] | None = None


def evaluate_source(
    source: EmbeddingSource, eval_sets: Mapping[str, QueryIndexRecords], config: EvaluationConfig
) -> EvaluationResult:
    """Embeds the records with `source` and runs every protocol."""
    domains = embed_eval_sets(source, eval_sets)
    bank = [embed_unit_rows(source, records) for records in config.bank]
    return evaluate_embeddings(source.name, domains, config, bank)


def evaluate_embeddings(
    name: str,
    domains: dict[str, DomainEmbeddings],
    config: EvaluationConfig,
    bank: Sequence[np.ndarray] = (),
    transform: dict[str, Any] | None = None,
) -> EvaluationResult:
    """Runs every protocol on embeddings; those of `config.bank` are in `bank`, as unit rows."""
    searched = correct_scores(domains, np.concatenate(bank)) if bank else domains
    results = {
        protocol: run_protocol(searched, protocol, config.metrics, config.search)
        for protocol in config.protocols
    }
    return EvaluationResult(name, domains, results, transform)


def evaluate_specialists(
    specialists: Mapping[str, EmbeddingSource],
    eval_sets: Mapping[str, QueryIndexRecords],
    config: EvaluationConfig,
) -> EvaluationResult:
    """Evaluates specialist + oracle: each query uses its domain's model and its domain's index.

    Raises:
        UserError: The specialists are not those of the evaluated domains.
    """
    if eval_sets.keys() != specialists.keys():
        raise UserError(
            f"there are specialists for {', '.join(sorted(specialists))}, but the domains are "
            f"{', '.join(eval_sets)}: give one per domain, or select domains with --domains"
        )
    domains: dict[str, DomainEmbeddings] = {}
    for key, eval_set in eval_sets.items():
        domains |= embed_eval_sets(specialists[key], {key: eval_set})
    result = run_protocol(domains, "separate", config.metrics, config.search)
    return EvaluationResult("specialists", domains, {"specialist_oracle": result})


def make_report(results: Sequence[EvaluationResult], config: EvaluationConfig) -> dict[str, Any]:
    """Makes the report of the first result, and of the others compared with it.

    Returns:
        `source`, the name; for each protocol a summary; `transform`, if the embeddings were
        mapped by one that was fitted; `domain_confusion` of the merged protocol;
        `search` by protocol; with several results `comparisons`: by name the same, and the
        `difference` to the first; `config`, `versions`.
    """
    first, *others = results
    report: dict[str, Any] = {"source": first.name, **_result_report(first, config)}
    if others:
        report["comparisons"] = {
            other.name: {**_result_report(other, config), "difference": _differences(other, first)}
            for other in others
        }
    report["config"] = {
        "metrics": list(config.metrics),
        "bootstrap_samples": config.bootstrap_samples,
        "bootstrap_seed": 0,
        "score_correction_images": sum(len(records) for records in config.bank),
    }
    report["versions"] = library_versions(("numpy", "scann", "tensorflow"))
    return report


def _result_report(result: EvaluationResult, config: EvaluationConfig) -> dict[str, Any]:
    report: dict[str, Any] = {
        protocol: summarize(protocol_result, config.bootstrap_samples)
        for protocol, protocol_result in result.results.items()
    }
    if result.transform:
        report["transform"] = result.transform
    if "merged" in result.results:
        report["domain_confusion"] = domain_confusion(result.results["merged"])
    report["search"] = {name: protocol.search for name, protocol in result.results.items()}
    return report


def _differences(result: EvaluationResult, baseline: EvaluationResult) -> dict[str, Any]:
    differences = {}
    for name, protocol_result in result.results.items():
        # specialists search the same index as the universal embedding in the separate protocol
        counterpart = "separate" if name == "specialist_oracle" else name
        if counterpart in baseline.results:
            differences[name] = paired_difference(protocol_result, baseline.results[counterpart])
    return differences
