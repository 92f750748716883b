"""The report of an evaluation: JSON first, then text made from it."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

TITLES = {
    "merged": "Merged: one index of all domains",
    "separate": "Separate: the query's own domain is known",
    "specialist_oracle": "Specialist + oracle: each domain's own model and index (upper bound)",
}


def write(report: dict, folder: str | Path) -> list[Path]:
    """Writes `report.json`, with every digit, and `report.md` into `folder`; gives their paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    as_json = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    (folder / "report.json").write_text(as_json, encoding="utf-8")
    (folder / "report.md").write_text(as_markdown(report), encoding="utf-8")
    return [folder / "report.json", folder / "report.md"]


def metric_names(summary: dict) -> list[str]:
    """The metrics of one protocol's summary, in its order."""
    skipped = ("queries", "without_relevant", "domains", "interval")
    return [name for name in summary["mean"] if name not in skipped]


def title(metric: str) -> str:
    """`mmp_at_5` -> `mMP@5`, as papers write it."""
    kind, _, k = metric.partition("_at_")
    return {"r": "R", "mmp": "mMP", "map": "mAP"}[kind] + "@" + k.upper()


def rows(summary: dict) -> list[list[str]]:
    """A table of one protocol: a header, a row of each domain and the mean."""
    names = metric_names(summary)
    table = [["domain", *(title(name) for name in names), "queries", "without relevant"]]
    for key, entry in summary.items():
        cells = [_number(entry, name) for name in names]
        table.append([key, *cells, f"{entry['queries']:,}", f"{entry['without_relevant']:,}"])
    return table


def _number(entry: dict, name: str) -> str:
    value, interval = entry[name], entry.get("interval", {}).get(name)
    if value is None:
        return "none"
    return f"{value:.4f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def plain(table: Sequence[Sequence[str]]) -> str:
    """A table for a terminal: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for row in table:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def markdown(table: Sequence[Sequence[str]]) -> str:
    """The same as a Markdown table."""
    header, *body = ("| " + " | ".join(row) + " |" for row in table)
    rule = "|---" + "|---:" * (len(table[0]) - 1) + "|"
    return "\n".join([header, rule, *body])


def sources(report: dict) -> Iterator[tuple[str, dict]]:
    """Name and numbers of what was evaluated: the first, then those compared with it."""
    yield report["source"], report
    yield from report.get("compared", {}).items()


def text(report: dict) -> str:
    """Every table of `report`, for a terminal."""
    return _sections(report, plain, "{}")


def as_markdown(report: dict) -> str:
    """Every table of `report`, in Markdown."""
    head = f"# Retrieval: {report['dataset']}, split {report['split']}\n\n"
    return head + _sections(report, markdown, "## {}") + "\n"


def _sections(report: dict, table: Callable[[list[list[str]]], str], heading: str) -> str:
    parts = []
    for name, numbers in sources(report):
        for protocol in (protocol for protocol in TITLES if protocol in numbers):
            parts.append(heading.format(f"{name} — {TITLES[protocol]}"))
            parts.append(table(rows(numbers[protocol])))
            if not numbers["search"][protocol]["exact"]:
                parts.append(search_line(numbers["search"][protocol]))
        for protocol, summary in numbers.get("difference", {}).items():
            against = f"{name} minus {report['source']}, {protocol}"
            parts.append(heading.format(against))
            parts.append(table(difference_rows(summary)))
    if "compared" in report:
        parts += [heading.format("Means over domains"), table(mean_rows(report))]
    return "\n\n".join(parts)


def search_line(search: dict) -> str:
    """What an approximate search costs and what it gives."""
    return (
        f"Approximate: recall@5 {search['recall_at_5']:.4f} against exact on "
        f"{search['recall_sample']:,} queries; built in {search['build_seconds']:.1f} s; "
        f"{search['queries_per_second']:,.0f} queries per second (exact, on that sample: "
        f"{search['exact_queries_per_second']:,.0f})."
    )


def mean_rows(report: dict) -> list[list[str]]:
    """A table of the means over domains: a row of each source and protocol."""
    names = next(metric_names(report[key]) for key in TITLES if key in report)
    table = [["source", "protocol", *(title(name) for name in names)]]
    for source, numbers in sources(report):
        for protocol in (protocol for protocol in TITLES if protocol in numbers):
            cells = [_number(numbers[protocol]["mean"], name) for name in names]
            table.append([source, protocol.replace("_", " + "), *cells])
    return table


def difference_rows(summary: dict) -> list[list[str]]:
    """A table of differences between two sources, with their intervals."""
    names = list(summary["mean"])
    table = [["domain", *(title(name) for name in names)]]
    for key, entry in summary.items():
        table.append([key, *(_difference(entry[name]) for name in names)])
    return table


def _difference(entry: dict | None) -> str:
    if entry is None:
        return "none"
    low, high = entry["interval"]
    return f"{entry['difference']:+.4f} [{low:+.3f}, {high:+.3f}]"
