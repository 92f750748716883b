"""Evaluates one or several sources on prepared records, and gathers the report's numbers."""

import importlib.metadata
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import universal_embedding
from universal_embedding.errors import UserError
from universal_embedding.retrieval import bootstrap, evaluation
from universal_embedding.retrieval.comparison import difference
from universal_embedding.retrieval.exact import exact
from universal_embedding.retrieval.gallery import DomainEmbeddings
from universal_embedding.retrieval.metrics import DEFAULT, parse
from universal_embedding.retrieval.neighbours import Neighbours
from universal_embedding.retrieval.protocol import PROTOCOLS, Results, run
from universal_embedding.retrieval.sources import Pair, Source, embed_pairs


@dataclass(frozen=True)
class Options:
    """How to evaluate.

    Attributes:
        protocols: Some of `merged` and `separate`.
        metrics: Names as `metrics.parse` takes them.
        resamples: Bootstrap samples of the 95 % intervals; 0 for none.
        search: Makes the neighbours that are used.
    """

    protocols: Sequence[str] = PROTOCOLS
    metrics: Sequence[str] = DEFAULT
    resamples: int = bootstrap.RESAMPLES
    search: Callable[[], Neighbours] = exact

    def __post_init__(self) -> None:
        for name in self.metrics:
            parse(name)
        wrong = [name for name in self.protocols if name not in PROTOCOLS]
        if wrong or not self.protocols or not self.metrics:
            raise UserError(
                f"protocols are {list(self.protocols)} and metrics {list(self.metrics)}; give at "
                f"least one of each, protocols among {', '.join(PROTOCOLS)}"
            )


@dataclass(frozen=True)
class Assessment:
    """One evaluated source: its embeddings and the results of each protocol."""

    name: str
    domains: dict[str, DomainEmbeddings]
    results: dict[str, Results]


def assess(source: Source, pairs: Mapping[str, Pair], options: Options) -> Assessment:
    """Embeds the records with `source` and searches."""
    domains = embed_pairs(source, pairs)
    return Assessment(
        source.name,
        domains,
        {name: run(domains, name, options.metrics, options.search) for name in options.protocols},
    )


def assess_specialists(
    specialists: Mapping[str, Source], pairs: Mapping[str, Pair], options: Options
) -> Assessment:
    """Specialist + oracle: each query goes to its domain's model and its domain's index.

    Raises:
        UserError: A domain has no specialist.
    """
    missing, unknown = pairs.keys() - specialists.keys(), specialists.keys() - pairs.keys()
    if missing or unknown:
        raise UserError(
            f"specialists are given for {', '.join(sorted(specialists))}, but the domains are "
            f"{', '.join(pairs)}: give one for each, or choose domains with --domains"
        )
    domains = {}
    for key, pair in pairs.items():
        domains |= embed_pairs(specialists[key], {key: pair})
    results = run(domains, "separate", options.metrics, options.search)
    return Assessment("specialists", domains, {"specialist_oracle": results})


def numbers(assessments: Sequence[Assessment], options: Options) -> dict:
    """The report of the first, and of the others compared with it.

    Returns:
        `source`, a summary for each protocol, `confusion`, `search`; with several assessments
        `compared`: by name the same, and the `difference` to the first; `options`, `versions`.
    """
    first, *others = assessments
    report = {"source": first.name, **_numbers(first, options)}
    if others:
        report["compared"] = {
            other.name: {
                **_numbers(other, options),
                "difference": _differences(other, first),
            }
            for other in others
        }
    report["options"] = {
        "metrics": list(options.metrics),
        "resamples": options.resamples,
        "seed": 0,  # of the resampling
    }
    report["versions"] = _versions()
    return report


def _differences(other: Assessment, first: Assessment) -> dict:
    found = {}
    for name, results in other.results.items():
        # the specialists search what the universal embedding searches separately
        same = "separate" if name == "specialist_oracle" else name
        if same in first.results:
            found[name] = difference(results, first.results[same])
    return found


def _numbers(assessment: Assessment, options: Options) -> dict:
    report = {
        name: evaluation.summarise(results, options.resamples)
        for name, results in assessment.results.items()
    }
    if "merged" in assessment.results:
        report["confusion"] = evaluation.confusion(assessment.results["merged"])
    report["search"] = {name: results.search for name, results in assessment.results.items()}
    return report


def _versions() -> dict[str, str]:
    versions = {
        "python": platform.python_version(),
        "universal_embedding": universal_embedding.__version__,
    }
    for name in ("numpy", "scann", "tensorflow"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions
