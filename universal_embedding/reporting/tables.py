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
COMPATIBILITY = "Compatibility: merged index, models from old to new"
AVERAGES = {
    "average_compatibility": "compatible pairs (AC)",
    "average_metric": "mean of the matrix (AA)",
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


def compatibility_rows(compatibility: dict, metric: str) -> Table:
    """Rows of one metric: queries of each model, searched in the index of each older one."""
    names = compatibility["models"]
    rows = [[f"{metric_title(metric)}, queries by", *(f"index: {name}" for name in names)]]
    for name, entries in zip(names, compatibility["matrix"][metric], strict=True):
        cells = [_format_entry(entry) for entry in entries]
        rows.append([name, *cells, *[""] * (len(names) - len(cells))])
    return rows


def compatibility_difference_rows(compatibility: dict) -> Table:
    """Rows of each new model in each old index, minus the old model in its own."""
    metrics = list(compatibility["matrix"])
    rows = [["new queries in the old index, minus old ones", *map(metric_title, metrics)]]
    for pair in compatibility["differences"]:
        cells = [_format_difference(pair[metric]) for metric in metrics]
        rows.append([f"{pair['queries']} in {pair['index']}", *cells])
    for name, title in AVERAGES.items():
        rows.append([title, *(f"{compatibility[name][metric]:.4f}" for metric in metrics)])
    return rows


def moved_rows(compatibility: dict) -> Table:
    """Rows of the newest model's queries, by the share of the oldest index that it embedded."""
    metrics = list(compatibility["matrix"])
    rows = [["share of the index moved", *map(metric_title, metrics)]]
    for entry in compatibility["moved"]:
        rows.append([f"{entry['share']:.0%}", *(_format_entry(entry[m]) for m in metrics)])
    return rows


def compatibility_tables(compatibility: dict) -> list[Table]:
    """All tables of the section on compatibility."""
    return [
        *(compatibility_rows(compatibility, metric) for metric in compatibility["matrix"]),
        compatibility_difference_rows(compatibility),
        moved_rows(compatibility),
    ]


def format_score(entry: dict, metric: str) -> str:
    """`0.8230 [0.811, 0.836]`, or `none` where no query has positives."""
    return _format_entry({"value": entry[metric], "ci95": entry.get("ci95", {}).get(metric)})


def _format_entry(entry: dict) -> str:
    value, interval = entry["value"], entry["ci95"]
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


def describe_transform(transform: dict) -> str:
    """One sentence on a map of the embeddings, and on the images it was fitted on."""
    titles = {"center": "Centered", "pca": "PCA", "whiten": "PCA-whitening"}
    fitted_on = transform["fitted_on"]
    num_images = sum(fitted_on["num_images"].values())
    return (
        f"{titles[transform['method']]}: {transform['embedding_dim']} dimensions with "
        f"{transform['explained_variance']:.1%} of the variance of {num_images:,} of the "
        f"{fitted_on['num_images_of_split']:,} images of the split {fitted_on['split']}, which the "
        "map was fitted on."
    )


def plain_table(rows: Sequence[Sequence[str]]) -> str:
    """A table for a terminal: the first column left-aligned, the others right-aligned."""
    header, *body = rows
    rows = [[*map(printable, header)], *([printable(row[0]), *row[1:]] for row in body)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """The same table in Markdown."""
    header, *body = rows
    cells = [
        [*map(escape_markdown, header)],
        *([escape_markdown(row[0]), *row[1:]] for row in body),
    ]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    lines.insert(1, "|---" + "|---:" * (len(header) - 1) + "|")
    return "\n".join(lines)


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
        if "transform" in numbers:
            sections.append(describe_transform(numbers["transform"]))
        for protocol, differences in numbers.get("difference", {}).items():
            sections.append(heading(f"{name} minus {report['source']}, {protocol}"))
            sections.append(format_table(difference_rows(differences)))
    if "comparisons" in report:
        sections += [heading("Means over domains"), format_table(mean_rows(report))]
    if "compatibility" in report:
        sections.append(heading(COMPATIBILITY))
        sections += map(format_table, compatibility_tables(report["compatibility"]))
    return "\n\n".join(sections)


def _format_difference(entry: dict | None) -> str:
    if entry is None:
        return "none"
    low, high = entry["ci95"]
    return f"{entry['difference']:+.4f} [{low:+.3f}, {high:+.3f}]"
