"""Charts of a report as SVG text: bars with intervals, a heat map, a curve, a map of points."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

COLOURS = (
    *("#4269d0", "#e39a00", "#e6553f", "#2f9e8f", "#8a5cd6"),
    *("#d9609b", "#3c9a3f", "#8c6242", "#6b7683", "#5aa3e8"),
)


def bars(series: Mapping[str, Mapping[str, tuple]], colours: Sequence[str]) -> str:
    """Horizontal bars between 0 and 1, one group a row, one bar a series.

    Args:
        series: `{series: {row: (value or None, (low, high) or None)}}`, the same rows in each.
        colours: One of each series.
    """
    names = list(next(iter(series.values())))
    bar, gap, left, width = (14 if len(series) < 3 else 10), 12, 96, 360
    group = bar * len(series) + gap
    height = group * len(names) + 24
    parts = [_svg(left + width + 56, height)]
    for tick in (0, 0.25, 0.5, 0.75, 1):
        x = left + tick * width
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="0" y2="{height - 22}"/>')
        parts.append(
            f'<text class="tick" x="{x}" y="{height - 6}" text-anchor="middle">{tick:g}</text>'
        )
    for i, name in enumerate(names):
        top = i * group + gap / 2
        bold = ' class="strong"' if name == "mean" else ""
        middle = top + bar * len(series) / 2
        parts.append(
            f'<text{bold} x="{left - 8}" y="{middle + 4}" text-anchor="end">{escape(name)}</text>'
        )
        for j, (values, colour) in enumerate(zip(series.values(), colours, strict=False)):
            value, ends = values[name]
            if value is None:
                continue
            y = top + j * bar
            parts.append(
                f'<rect x="{left}" y="{y}" width="{value * width:.1f}" height="{bar - 2}" rx="2" '
                f'fill="{colour}"/>'
            )
            end = value
            if ends:
                end = ends[1]
                low, high, at = left + ends[0] * width, left + ends[1] * width, y + bar / 2 - 1
                parts.append(f'<path class="ends" d="M{low:.1f} {at}H{high:.1f}"/>')
            parts.append(
                f'<text class="value" x="{left + end * width + 6:.1f}" y="{y + bar / 2 + 3}">'
                f"{value:.3f}</text>"
            )
    return "".join([*parts, "</svg>"])


def heat_map(table: Mapping[str, Mapping[str, int]]) -> str:
    """Counts, row by row as parts of the row's sum: the darker, the larger the part."""
    names = list(table)
    head = "".join(f"<th><span>{escape(name)}</span></th>" for name in names)
    rows = []
    for name, counts in table.items():
        total = sum(counts.values())
        cells = []
        for other in names:
            part = counts[other] / total if total else 0
            style = f"background:rgba(37,74,158,{0.9 * part**0.7:.3f})"
            if part > 0.4:
                style += ";color:#fff"
            edge = ' class="own"' if other == name else ""
            text = f"{counts[other]:,}" if counts[other] else "·"
            cells.append(f'<td{edge} style="{style}" title="{part:.1%} of {name}">{text}</td>')
        rows.append(
            f"<tr><th>{escape(name)}</th>{''.join(cells)}<td class='sum'>{total:,}</td></tr>"
        )
    return (
        f"<table class='heat'><tr><th></th>{head}<th class='sum'><span>all wrong</span></th></tr>"
        + "".join(rows)
        + "</table>"
    )


def curve(points: Sequence[Mapping[str, float]], exact_rate: float) -> str:
    """Queries per second (logarithmic) against recall@5, the chosen point marked."""
    width, height, left, bottom = 560, 300, 64, 40
    recalls = np.array([point["recall_at_5"] for point in points])
    rates = np.log10([point["queries_per_second"] for point in points] + [exact_rate])
    low = min(0.95, recalls.min()) - 0.005
    bounds = np.floor(rates.min() * 2) / 2, np.ceil(rates.max() * 2) / 2 + 0.01

    def place(recall: float, rate: float) -> tuple[float, float]:
        x = left + (recall - low) / (1 - low) * (width - left - 24)
        return x, (height - bottom) * (1 - (rate - bounds[0]) / (bounds[1] - bounds[0])) + 8

    parts = [_svg(width, height + 12)]
    for tick in np.linspace(np.ceil(low * 100) / 100, 1, 5):
        x, y = place(tick, bounds[0])
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="8" y2="{y}"/>')
        parts.append(
            f'<text class="tick" x="{x}" y="{y + 16}" text-anchor="middle">{tick:.3g}</text>'
        )
    for tick in np.arange(bounds[0], bounds[1], 0.5):
        x, y = place(low, tick)
        parts.append(f'<line class="grid" x1="{x}" x2="{width - 24}" y1="{y}" y2="{y}"/>')
        parts.append(
            f'<text class="tick" x="{x - 8}" y="{y + 4}" text-anchor="end">{10**tick:,.0f}</text>'
        )
    line = [place(*pair) for pair in zip(recalls, rates[:-1], strict=True)]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in line)
    parts.append(f'<path d="M{path}" fill="none" stroke="{COLOURS[0]}" stroke-width="2"/>')
    for (x, y), point in zip(line, points, strict=True):
        size, fill = (6, COLOURS[0]) if point.get("chosen") else (3.5, "#fff")
        title = f"{point['recall_at_5']:.4f}, {point['queries_per_second']:,.0f}/s"
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size}" fill="{fill}" stroke="{COLOURS[0]}" '
            f'stroke-width="2"><title>{title}</title></circle>'
        )
    x, y = place(1, rates[-1])
    parts.append(f'<path d="M{x - 6} {y}l6 -6l6 6l-6 6z" fill="{COLOURS[2]}"/>')
    parts.append(f'<text class="value" x="{x - 12}" y="{y + 4}" text-anchor="end">exact</text>')
    parts.append(
        f'<text class="tick" x="{width - 24}" y="{height + 10}" text-anchor="end">recall@5</text>'
    )
    return "".join([*parts, "</svg>"])


def point_map(
    places: np.ndarray, groups: Sequence[int], names: Sequence[str], titles: Sequence[str]
) -> str:
    """Points `[P, 2]`, coloured by group, with a text that shows under the pointer."""
    width, height = 1080, 760
    low, high = places.min(0), places.max(0)
    at = (places - low) / np.maximum(high - low, 1e-9) * (width - 40, height - 40) + 20
    parts = [_svg(width, height)]
    for group in range(len(names)):
        parts.append(f'<g class="g{group}" fill="{COLOURS[group % len(COLOURS)]}">')
        parts += [
            f'<circle cx="{at[i, 0]:.1f}" cy="{at[i, 1]:.1f}" r="3.6"><title>{escape(titles[i])}'
            "</title></circle>"
            for i in range(len(at))
            if groups[i] == group
        ]
        parts.append("</g>")
    return "".join([*parts, "</svg>"])


def legend(names: Sequence[str], colours: Sequence[str] = COLOURS) -> str:
    """Names with their colours."""
    items = [
        f'<span><i style="background:{colours[i % len(colours)]}"></i>{escape(name)}</span>'
        for i, name in enumerate(names)
    ]
    return f'<p class="legend">{"".join(items)}</p>'


def _svg(width: float, height: float) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        'xmlns="http://www.w3.org/2000/svg">'
    )
