"""Tables of a report, as text and Markdown, made from the numbers of report.json."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from universal_embedding.errors import printable
from universal_embedding.files import as_path, atomic_write

TITLES = {
    "merged": "Merged: one index of all domains",
    "separate": "Separate: the query's own domain is known",
    "specialist_oracle": "Specialist + oracle: each domain's own model and index (upper bound)",
}
Table = list[list[str]]


def write_report(report: dict, folder: str | Path) -> list[Path]:
    """Writes `report.json`, with every digit, and `report.md` into `folder`; returns both."""
    paths = [as_path(folder) / "report.json", as_path(folder) / "report.md"]
    with atomic_write(paths[0]) as file:
        json.dump(report, file, indent=2, ensure_ascii=False)
        file.write("\n")
    with atomic_write(paths[1]) as file:
        file.write(format_report_markdown(report))
    return paths


def format_report_text(report: dict) -> str:
    """Every table of a report, for a terminal."""
    return _format_sections(report, plain_table, printable)


def format_report_markdown(report: dict) -> str:
    """Every table of a report, in Markdown."""
    title = escape_markdown(f"Retrieval: {report['dataset']}, split {report['split']}")
    sections = _format_sections(report, markdown_table, lambda text: f"## {escape_markdown(text)}")
    return f"# {title}\n\n{sections}\n"


def escape_markdown(text: object) -> str:
    """Text that Markdown and HTML show as it is, in one line."""
    return re.sub(r"([\\`*_\[\]<>|#&])", r"\\\1", printable(text))


def metric_names(summary: dict) -> list[str]:
    """The metrics of one protocol's summary, in its order."""
    return [name for name in summary["mean"] if "_at_" in name]


def metric_title(metric: str) -> str:
    """`mmp_at_5` -> `mMP@5`, as papers write it."""
    kind, _, k = metric.partition("_at_")
    return {"r": "R", "mmp": "mMP", "map": "mAP"}[kind] + "@" + k.upper()


def protocol_title(protocol: str) -> str:
    """`specialist_oracle` -> `specialist + oracle`."""
    return protocol.replace("_", " + ")


def sources(report: dict) -> Iterator[tuple[str, dict]]:
    """Name and numbers of every source: the first, then those compared with it."""
    yield report["source"], report
    yield from report.get("comparisons", {}).items()


def protocols(numbers: dict) -> list[tuple[str, dict]]:
    """Name and summary of the protocols of one source, in the order of `TITLES`."""
    return [(name, numbers[name]) for name in TITLES if name in numbers]


def summary_rows(summary: dict) -> Table:
    """Rows of one protocol: a header, each domain and the mean."""
    names = metric_names(summary)
    header = ["domain", *map(metric_title, names), "queries", "without positives"]
    rows = [header]
    for domain, entry in summary.items():
        cells = [format_score(entry, name) for name in names]
        counts = (entry["num_queries"], entry["num_queries_without_positives"])
        rows.append([domain, *cells, *(f"{count:,}" for count in counts)])
    return rows


def mean_rows(report: dict) -> Table:
    """Rows of the means over domains: each source and protocol."""
    names = metric_names(protocols(report)[0][1])
    rows = [["source", "protocol", *map(metric_title, names)]]
    for source, numbers in sources(report):
        for protocol, summary in protocols(numbers):
            cells = [format_score(summary["mean"], name) for name in names]
            rows.append([source, protocol_title(protocol), *cells])
    return rows


def difference_rows(differences: dict) -> Table:
    """Rows of the differences between two sources, with their intervals."""
    names = list(differences["mean"])
    rows = [["domain", *map(metric_title, names)]]
    for domain, entry in differences.items():
        rows.append([domain, *(_format_difference(entry[name]) for name in names)])
    return rows


def format_score(entry: dict, metric: str) -> str:
    """`0.8230 [0.811, 0.836]`, or `none` where no query has positives."""
    value, interval = entry[metric], entry.get("ci95", {}).get(metric)
    if value is None:
        return "none"
    return f"{value:.4f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def describe_search(search: dict) -> str:
    """One sentence on the recall, build time and speed of an approximate search."""
    return (
        f"Approximate: recall@5 {search['recall_at_5']:.4f} against exact on "
        f"{search['num_recall_queries']:,} queries; built in {search['build_seconds']:.1f} s; "
        f"{search['queries_per_second']:,.0f} queries per second (exact, on that sample: "
        f"{search['exact_queries_per_second']:,.0f})."
    )


def plain_table(rows: Sequence[Sequence[str]]) -> str:
    """A table for a terminal: the first column left-aligned, the others right-aligned."""
    rows = [[printable(row[0]), *row[1:]] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """The same table in Markdown."""
    header, *body = ("| " + " | ".join([escape_markdown(row[0]), *row[1:]]) + " |" for row in rows)
    rule = "|---" + "|---:" * (len(rows[0]) - 1) + "|"
    return "\n".join([header, rule, *body])


def _format_sections(
    report: dict, format_table: Callable[[Table], str], heading: Callable[[str], str]
) -> str:
    sections = []
    for name, numbers in sources(report):
        for protocol, summary in protocols(numbers):
            sections.append(heading(f"{name} — {TITLES[protocol]}"))
            sections.append(format_table(summary_rows(summary)))
            if not numbers["search"][protocol]["is_exact"]:
                sections.append(describe_search(numbers["search"][protocol]))
        for protocol, differences in numbers.get("difference", {}).items():
            sections.append(heading(f"{name} minus {report['source']}, {protocol}"))
            sections.append(format_table(difference_rows(differences)))
    if "comparisons" in report:
        sections += [heading("Means over domains"), format_table(mean_rows(report))]
    return "\n\n".join(sections)


def _format_difference(entry: dict | None) -> str:
    if entry is None:
        return "none"
    low, high = entry["ci95"]
    return f"{entry['difference']:+.4f} [{low:+.3f}, {high:+.3f}]"
