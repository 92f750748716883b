"""The report as one HTML file that opens alone: no script, nothing loaded, images inside."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from universal_embedding.datasets.records import Records
from universal_embedding.evaluation.embed import QueryIndexRecords
from universal_embedding.evaluation.evaluate import EvaluationResult
from universal_embedding.files import as_path, atomic_write
from universal_embedding.reporting import montage, plots, tables

SERIES_COLORS = ("#2f5fd0", "#a9c1f2")  # merged, separate


def write_html_report(
    report: dict,
    results: Sequence[EvaluationResult],
    eval_sets: Mapping[str, QueryIndexRecords],
    path: str | Path,
    num_examples: int = 8,
) -> Path:
    """Writes the page.

    Args:
        report: The numbers of report.json.
        results: The evaluated sources, in the report's order.
        eval_sets: The records that were searched.
        path: The file to write.
        num_examples: Failures, and randomly sampled queries, shown per domain; 0 for neither
            images nor a map.

    Returns:
        The path.
    """
    loader = jinja2.PackageLoader("universal_embedding.reporting")
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals["css"] = loader.get_source(environment, "report.css")[0]
    thumbnails = montage.Thumbnails(eval_sets)
    sources: list[dict[str, Any]] = []
    for (name, numbers), result in zip(tables.sources(report), results, strict=True):
        source = _describe_source(name, numbers, f"source{len(sources)}")
        if num_examples and "merged" in result.results:
            source["montages"] = _describe_montages(result, eval_sets, thumbnails, num_examples)
            source["map"] = _draw_map(result, eval_sets, f"map{len(sources)}")
        sources.append(source)
    page = environment.get_template("report.html.j2").render(
        title=f"Retrieval on {report['dataset']}, {report['split']} split",
        lead=" against ".join(name for name, _ in tables.sources(report)),
        tiles=_describe_means(report),
        comparison=_describe_comparison(report),
        compatibility=_describe_compatibility(report),
        sources=sources,
        footer=json.dumps({key: report[key] for key in ("config", "versions")}),
    )
    with atomic_write(path) as file:
        file.write(page)
    return as_path(path)


def _describe_means(report: dict) -> list[dict[str, str]]:
    tiles = []
    for protocol, summary in tables.protocols(report):
        for metric in tables.metric_names(summary)[:2]:
            mean = summary["mean"]
            interval = mean.get("ci95", {}).get(metric)
            title = f"{tables.protocol_title(protocol)} {tables.metric_title(metric)}, mean"
            value = "none" if mean[metric] is None else f"{mean[metric]:.3f}"
            note = f"95 %: {interval[0]:.3f} to {interval[1]:.3f}" if interval else ""
            tiles.append({"title": title, "value": value, "note": note})
    return tiles


def _describe_comparison(report: dict) -> dict[str, Any] | None:
    if "comparisons" not in report:
        return None
    differences = [
        {
            "title": f"{name} minus {report['source']}, {tables.protocol_title(protocol)}",
            "rows": tables.difference_rows(difference),
        }
        for name, numbers in report["comparisons"].items()
        for protocol, difference in numbers["difference"].items()
    ]
    return {"means": tables.mean_rows(report), "differences": differences}


def _describe_compatibility(report: dict) -> dict[str, Any] | None:
    compatibility = report.get("compatibility")
    if compatibility is None:
        return None
    charts = []
    for metric, rows in compatibility["matrix"].items():
        values = [[entry["value"] for entry in row] for row in rows]
        svg = plots.compatibility_map(values, compatibility["models"], f"compatibility-{metric}")
        charts.append({"title": tables.metric_title(metric), "svg": svg})
    return {
        "title": tables.COMPATIBILITY,
        "charts": charts,
        "tables": tables.compatibility_tables(compatibility),
    }


def _describe_source(name: str, numbers: dict, plot_name: str) -> dict[str, Any]:
    protocols = tables.protocols(numbers)
    charts = []
    for metric in tables.metric_names(protocols[0][1]):
        series = {
            protocol: {
                domain: (entry[metric], entry.get("ci95", {}).get(metric))
                for domain, entry in summary.items()
            }
            for protocol, summary in protocols
        }
        svg = plots.bar_chart(series, SERIES_COLORS, f"{plot_name}-{metric}")
        charts.append({"title": tables.metric_title(metric), "svg": svg})
    legend = [
        (tables.protocol_title(protocol), color)
        for (protocol, _), color in zip(protocols, SERIES_COLORS, strict=False)
    ]
    searches = [
        {
            "title": protocol,
            "note": tables.describe_search(search),
            "svg": plots.recall_speed_plot(
                search["recall_speed_curve"],
                search["exact_queries_per_second"],
                f"{plot_name}-{protocol}",
            ),
        }
        for protocol, search in numbers["search"].items()
        if search.get("recall_speed_curve")
    ]
    confusion = numbers.get("domain_confusion")
    return {
        "name": name,
        "charts": charts,
        "legend": legend,
        "tables": [(tables.TITLES[key], tables.summary_rows(rows)) for key, rows in protocols],
        "note": tables.describe_transform(numbers["transform"]) if "transform" in numbers else "",
        "confusion": confusion and plots.heat_map(confusion, f"{plot_name}-confusion"),
        "searches": searches,
        "montages": [],
        "map": None,
    }


def _describe_montages(
    result: EvaluationResult,
    eval_sets: Mapping[str, QueryIndexRecords],
    thumbnails: montage.Thumbnails,
    num_examples: int,
) -> list[dict[str, Any]]:
    merged = result.results["merged"]
    montages = []
    for key, outcome in merged.domains.items():
        has_positives = outcome.num_positives > 0
        selections = {
            "Worst failures first": montage.worst_failures,
            "Random sample": montage.sample_queries,
        }
        rows = {
            title: [
                _describe_row(row, eval_sets, thumbnails)
                for row in select(key, result.domains, merged, num_examples)
            ]
            for title, select in selections.items()
        }
        num_wrong = int((has_positives & ~outcome.relevant[:, 0]).sum())
        counts = f"{num_wrong:,} of {int(has_positives.sum()):,}"
        montages.append({"domain": key, "counts": counts, "rows": rows})
    return montages


def _describe_row(
    row: montage.QueryRow,
    eval_sets: Mapping[str, QueryIndexRecords],
    thumbnails: montage.Thumbnails,
) -> list[dict[str, str]]:
    queries = eval_sets[row.query.domain].queries
    name = _class_names(queries, row.query.record)
    tiles = [{"kind": "query", "url": thumbnails.of_query(row.query), "name": name}]
    tiles[0] |= {"note": "query", "domain": ""}
    for image in (*row.neighbors, row.best_positive):
        kind = "right" if image.is_relevant else "wrong"
        tiles.append(
            {
                "kind": "best" if image is row.best_positive else kind,
                "url": thumbnails.of_index(image),
                "name": _class_names(eval_sets[image.domain].index_records, image.record),
                "note": f"{image.similarity:.3f}",
                "domain": image.domain if image.domain != row.query.domain else "",
            }
        )
    return tiles


def _draw_map(
    result: EvaluationResult, eval_sets: Mapping[str, QueryIndexRecords], name: str
) -> dict[str, Any]:
    projection = plots.tsne(result.domains)
    keys = list(result.domains)
    titles = [
        f"{keys[domain]}: {_class_names(eval_sets[keys[domain]].queries, record)}"
        for domain, record in zip(
            projection.domains.tolist(), projection.records.tolist(), strict=True
        )
    ]
    svg = plots.scatter_map(projection, keys, titles, name)
    return {"num_queries": f"{len(titles):,}", "svg": svg}


def _class_names(records: Records, record: int) -> str:
    return ", ".join(
        str(records.class_names.get(label, f"class {label}"))
        for label in records.labels[record].tolist()
    )
