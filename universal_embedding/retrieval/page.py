"""The report as one HTML file that opens alone: no script, nothing loaded, pictures inside."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from universal_embedding.retrieval import atlas, charts, report, sheets
from universal_embedding.retrieval.assessment import Assessment
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
            parts += [_sheet(name, key, one, pairs, thumbnails, examples) for key in shown.domains]
            parts.append(_map(name, one, pairs))
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
        parts.append(_section(f"{name} — {report.TITLES[protocol]}", _table(report.rows(summary))))
    if "confusion" in block:
        note = (
            "Queries whose first neighbour is wrong, by row; the column is the domain that "
            "neighbour comes from. On the outlined diagonal the domain was right and the class "
            "wrong."
        )
        parts.append(
            _section(f"{name} — domain confusion", charts.heat_map(block["confusion"]), note)
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
    return _section(f"{name} — by domain", body, "Lines are 95 % bootstrap intervals over queries.")


def _curve(name: str, protocol: str, search: dict) -> str:
    note = (
        f"Recall@5 {search['recall_at_5']:.4f} against exact on {search['recall_sample']:,} "
        f"queries; built in {search['build_seconds']:.1f} s; "
        f"{search['queries_per_second']:,.0f} queries per second in this run. The filled point "
        "is the setting that was chosen, the diamond the exact search."
    )
    body = charts.curve(search["curve"], search["exact_queries_per_second"])
    return _section(f"{name} — approximate search, {protocol}", body, note)


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
    return _section("Comparison", "".join(parts), note)


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    lines = ["<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>"]
    for row in body:
        cells = (escape(cell).replace(" [", "<small>[").replace("]", "]</small>") for cell in row)
        mean = " class='mean'" if row[0] == "mean" else ""
        lines.append(f"<tr{mean}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return f"<table class='numbers'>{''.join(lines)}</table>"


def _sheet(
    name: str,
    key: str,
    one: Assessment,
    pairs: Mapping[str, Pair],
    thumbnails: sheets.Thumbnails,
    examples: int,
) -> str:
    results = one.results["merged"]
    result = results.domains[key]
    wrong = int(((result.counts > 0) & ~result.relevant[:, 0]).sum())
    body = []
    for heading, rows in (
        ("Worst failures first", sheets.worst_failures(key, one.domains, results, examples)),
        ("Drawn at random", sheets.drawn(key, one.domains, results, examples)),
    ):
        lines = "".join(_row(row, pairs, thumbnails) for row in rows)
        body.append(f"<h3>{heading}</h3><div class='sheet'>{lines or 'None.'}</div>")
    note = (
        f"{wrong:,} of {(result.counts > 0).sum():,} queries have a wrong first neighbour. From "
        "the left: the query; its five neighbours in the merged index, right in green, wrong in "
        "red, with their cosine similarity and their domain if it is another; dashed, the most "
        "similar picture of the query's class."
    )
    return _section(f"{name} — {key}", "".join(body), note)


def _row(row: sheets.Row, pairs: Mapping[str, Pair], thumbnails: sheets.Thumbnails) -> str:
    query = pairs[row.query.domain].queries
    parts = [_picture("query", thumbnails.query(row.query), _class(query, row.query), "query")]
    for shown in (*row.neighbours, row.best_right):
        records = pairs[shown.domain].searched
        kind = "best" if shown is row.best_right else "right" if shown.right else "wrong"
        below = f"{shown.score:.3f}"
        if shown.domain != row.query.domain:
            below += f"<em>{escape(shown.domain)}</em>"
        parts.append(_picture(kind, thumbnails.neighbour(shown), _class(records, shown), below))
    return f"<div class='row'>{''.join(parts)}</div>"


def _class(records: object, shown: sheets.Shown) -> str:
    names = getattr(records, "class_names", {}) or {}
    ids = records.labels[shown.record].tolist()
    return ", ".join(str(names.get(i, f"class {i}")) for i in ids)


def _picture(kind: str, address: str, name: str, below: str) -> str:
    name = escape(name)
    return (
        f"<div class='pic {kind}' title='{name}'><img src='{address}' alt='{name}'>"
        f"<b>{name}</b>{below}</div>"
    )


def _map(name: str, one: Assessment, pairs: Mapping[str, Pair]) -> str:
    drawn = atlas.draw(one.domains)
    keys = list(one.domains)
    titles = [
        f"{keys[domain]}: {_class(pairs[keys[domain]].queries, sheets.Shown(keys[domain], record))}"
        for domain, record in zip(drawn.domains.tolist(), drawn.records.tolist(), strict=True)
    ]
    picture = charts.point_map(drawn.places, drawn.domains.tolist(), keys, titles)
    note = f"t-SNE of {len(titles):,} queries. Neighbourhoods mean something, distances do not."
    body = f"{charts.legend(keys)}<div class='map'>{picture}</div>"
    return _section(f"{name} — map of the embedding", body, note)


def _section(heading: str, body: str, note: str = "") -> str:
    note = f"<p class='note'>{escape(note)}</p>" if note else ""
    return f"<section><h2>{escape(heading)}</h2>{note}{body}</section>"


def _footer(numbers: dict) -> str:
    kept = {key: numbers[key] for key in ("options", "versions", "search") if key in numbers}
    return f"<footer><code>{escape(json.dumps(kept))}</code></footer>"
