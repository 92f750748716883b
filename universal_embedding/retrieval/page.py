"""The report as one HTML file that opens alone: no script, nothing loaded, pictures inside."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from universal_embedding.retrieval import charts, picture_sections, report, sheets
from universal_embedding.retrieval.assessment import Assessment
from universal_embedding.retrieval.picture_sections import section
from universal_embedding.retrieval.sources import Pair
from universal_embedding.retrieval.style import CSS

SHADES = ("#2f5fd0", "#a9c1f2")  # merged, separate


def write(
    numbers: dict,
    assessed: Sequence[Assessment],
    pairs: Mapping[str, Pair],
    path: Path,
    examples: int = 8,
) -> Path:
    """Writes the page.

    Args:
        numbers: The report, as in report.json.
        assessed: What was evaluated, in the report's order.
        pairs: The records that were searched.
        path: The file to write.
        examples: Failures, and queries drawn at random, that are shown of each domain; 0 for
            neither pictures nor a map.
    """
    title = f"Retrieval on {numbers['dataset']}, {numbers['split']} split"
    parts = [f"<header><h1>{escape(title)}</h1>{_lead(numbers)}</header>"]
    thumbnails = sheets.Thumbnails(pairs)
    if "compared" in numbers:
        parts.append(_comparison(numbers))
    for (name, block), one in zip(report.sources(numbers), assessed, strict=True):
        parts += _source(name, block)
        shown = one.results.get("merged")
        if examples and shown:
            parts += [
                picture_sections.sheet(name, key, one, pairs, thumbnails, examples)
                for key in shown.domains
            ]
            parts.append(picture_sections.embedding_map(name, one, pairs))
    parts.append(_footer(numbers))
    path.write_text(
        "<!doctype html><html lang='en'><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{CSS}</style><main>{''.join(parts)}</main></html>",
        encoding="utf-8",
    )
    return path


def _lead(numbers: dict) -> str:
    names = " against ".join(escape(name) for name, _ in report.sources(numbers))
    tiles = []
    for protocol, summary in _protocols(numbers):
        for metric in report.metric_names(summary)[:2]:
            mean = summary["mean"]
            main = " main" if protocol == "merged" and not tiles else ""
            ends = mean.get("interval", {}).get(metric)
            about = f"{protocol.replace('_', ' + ')} {report.title(metric)}, mean"
            between = f"95 %: {ends[0]:.3f} to {ends[1]:.3f}" if ends else ""
            value = "none" if mean[metric] is None else f"{mean[metric]:.3f}"
            tiles.append(
                f"<div class='tile{main}'><span>{about}</span><b>{value}</b>"
                f"<span>{between}</span></div>"
            )
    return f"<p>{names}</p><div class='tiles'>{''.join(tiles)}</div>"


def _protocols(block: dict) -> list[tuple[str, dict]]:
    return [(name, block[name]) for name in report.TITLES if name in block]


def _source(name: str, block: dict) -> list[str]:
    protocols = _protocols(block)
    parts = [_charts(name, protocols)]
    for protocol, summary in protocols:
        parts.append(section(f"{name} — {report.TITLES[protocol]}", _table(report.rows(summary))))
    if "confusion" in block:
        note = (
            "Queries whose first neighbour is wrong, by row; the column is the domain that "
            "neighbour comes from. On the outlined diagonal the domain was right and the class "
            "wrong."
        )
        parts.append(
            section(f"{name} — domain confusion", charts.heat_map(block["confusion"]), note)
        )
    for protocol, search in block["search"].items():
        if search.get("curve"):
            parts.append(_curve(name, protocol, search))
    return parts


def _charts(name: str, protocols: list[tuple[str, dict]]) -> str:
    figures = []
    for metric in report.metric_names(protocols[0][1]):
        series = {
            protocol: {
                key: (entry[metric], entry.get("interval", {}).get(metric))
                for key, entry in summary.items()
            }
            for protocol, summary in protocols
        }
        figures.append(
            f"<figure><figcaption>{report.title(metric)}</figcaption>"
            f"{charts.bars(series, SHADES)}</figure>"
        )
    legend = charts.legend([protocol.replace("_", " + ") for protocol, _ in protocols], SHADES)
    body = f"{legend}<div class='charts'>{''.join(figures)}</div>"
    return section(f"{name} — by domain", body, "Lines are 95 % bootstrap intervals over queries.")


def _curve(name: str, protocol: str, search: dict) -> str:
    note = report.search_line(search)
    note += " The filled point is the setting that was chosen, the diamond the exact search."
    body = charts.curve(search["curve"], search["exact_queries_per_second"])
    return section(f"{name} — approximate search, {protocol}", body, note)


def _comparison(numbers: dict) -> str:
    parts = [_table(report.mean_rows(numbers))]
    for name, block in numbers["compared"].items():
        for protocol, summary in block["difference"].items():
            heading = f"{name} minus {numbers['source']}, {protocol.replace('_', ' + ')}"
            parts.append(f"<h3>{escape(heading)}</h3>{_table(report.difference_rows(summary))}")
    note = (
        "Paired over the same queries; in brackets the 95 % interval of the difference. An "
        "interval without 0 is a difference that the choice of queries does not explain."
    )
    return section("Comparison", "".join(parts), note)


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    lines = ["<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>"]
    for row in body:
        cells = (escape(cell).replace(" [", "<small>[").replace("]", "]</small>") for cell in row)
        mean = " class='mean'" if row[0] == "mean" else ""
        lines.append(f"<tr{mean}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return f"<table class='numbers'>{''.join(lines)}</table>"


def _footer(numbers: dict) -> str:
    kept = {key: numbers[key] for key in ("options", "versions")}
    return f"<footer><code>{escape(json.dumps(kept))}</code></footer>"
