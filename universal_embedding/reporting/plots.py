"""Plots of a report as SVG text, drawn by matplotlib."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from universal_embedding.evaluation.embeddings import DomainEmbeddings

COLORS = (
    *("#4269d0", "#e39a00", "#e6553f", "#2f9e8f", "#8a5cd6"),
    *("#d9609b", "#3c9a3f", "#8c6242", "#6b7683", "#5aa3e8"),
)
INK, SOFT, LINE = "#1b2330", "#5d6878", "#e3e7ee"
_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"


@dataclass(frozen=True)
class Projection2D:
    """Images laid out in the plane.

    Attributes:
        points: `[P, 2]` float32.
        domains: `[P]` int, position of the image's domain among the keys.
        records: `[P]` int, position of the image among the domain's queries.
    """

    points: np.ndarray
    domains: np.ndarray
    records: np.ndarray


def tsne(
    domains: Mapping[str, "DomainEmbeddings"], max_points: int = 1600, seed: int = 0
) -> Projection2D:
    """Lays out queries by t-SNE (van der Maaten and Hinton 2008), equally many of each domain.

    Args:
        domains: Embeddings by domain key.
        max_points: Maximum number of queries, over all domains.
        seed: Seed of the sample and of the layout.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    rng = np.random.default_rng(seed)
    per_domain = max(1, max_points // len(domains))
    rows, domain_ids, records = [], [], []
    for number, domain in enumerate(domains.values()):
        sample = np.sort(rng.permutation(len(domain.query))[:per_domain])
        rows.append(domain.query[sample])
        domain_ids += [number] * len(sample)
        records += sample.tolist()
    embeddings = np.concatenate(rows)
    if len(embeddings) < 5:  # too few for a layout
        points = np.pad(embeddings, ((0, 0), (0, 2)))[:, :2]
    else:
        num_components = min(50, *embeddings.shape)  # principal components first, as in the paper
        if embeddings.shape[1] > num_components:
            embeddings = PCA(num_components, random_state=0).fit_transform(embeddings)
        perplexity = min(30, (len(embeddings) - 1) / 3)
        layout = TSNE(perplexity=perplexity, init="pca", random_state=seed)
        with threadpool_limits(1):  # its threads spin: 10 times slower where cores are busy
            points = layout.fit_transform(embeddings)
    return Projection2D(points, np.array(domain_ids), np.array(records))


def bar_chart(
    series: Mapping[str, Mapping[str, tuple]], colors: Sequence[str], name: str = "bars"
) -> str:
    """Horizontal bars between 0 and 1 with intervals: one group per row, one bar per series.

    Args:
        series: `{series: {row: (value or None, (low, high) or None)}}`, the same rows in each.
        colors: One color per series.
        name: Name of the plot, unique in its page.
    """
    rows = list(next(iter(series.values())))
    figure, axes = _figure(5.2, 0.4 + len(rows) * (0.1 + 0.155 * len(series)))
    height = 0.8 / len(series)
    for j, (scores, color) in enumerate(zip(series.values(), colors, strict=False)):
        for i, row in enumerate(rows):
            value, interval = scores[row]
            if value is None:
                continue
            y = i + (j - (len(series) - 1) / 2) * height
            axes.barh(y, value, height * 0.9, color=color)
            if interval:
                axes.plot(interval, [y, y], color=INK, linewidth=1.1, alpha=0.75)
            end = interval[1] if interval else value
            axes.text(end + 0.012, y, f"{value:.3f}", va="center", fontsize=7.5, color=SOFT)
    axes.set_yticks(range(len(rows)), rows)
    for label in axes.get_yticklabels():
        label.set_fontweight("bold" if label.get_text() == "mean" else "normal")
    axes.set(xlim=(0, 1.12), ylim=(len(rows) - 0.45, -0.55), xticks=(0, 0.25, 0.5, 0.75, 1))
    axes.grid(axis="x", color=LINE)
    return _to_svg(figure, name)


def heat_map(counts: Mapping[str, Mapping[str, int]], name: str = "heat") -> str:
    """Counts in a square table: the darker a cell, the larger its part of the row's sum."""
    from matplotlib.patches import Rectangle

    keys = list(counts)
    table = np.array([[counts[row][column] for column in keys] for row in keys], np.float64)
    totals = table.sum(1, keepdims=True)
    parts = np.divide(table, totals, out=np.zeros_like(table), where=totals > 0)
    figure, axes = _figure(1.6 + 0.78 * len(keys), 0.7 + 0.4 * len(keys))
    axes.imshow(parts**0.7, cmap="Blues", vmin=0, vmax=1.1, aspect="auto")
    for i in range(len(keys)):
        for j in range(len(keys)):
            text = f"{int(table[i, j]):,}" if table[i, j] else "·"
            color = "#fff" if parts[i, j] > 0.4 else INK
            axes.text(j, i, text, ha="center", va="center", color=color, fontsize=9)
        axes.add_patch(Rectangle((i - 0.49, i - 0.48), 0.98, 0.96, fill=False, edgecolor="#b9c4d8"))
        total = f"{int(totals[i, 0]):,}"
        axes.text(len(keys) - 0.3, i, total, ha="left", va="center", color=SOFT, fontsize=9)
    axes.text(len(keys) - 0.3, -0.75, "all wrong", ha="left", va="center", color=SOFT, fontsize=9)
    axes.set_xticks(range(len(keys)), keys)
    axes.set_yticks(range(len(keys)), keys)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    return _to_svg(figure, name)


def compatibility_map(
    matrix: Sequence[Sequence[float | None]], names: Sequence[str], name: str = "compatibility"
) -> str:
    """A lower triangle of scores; cells where the old index serves new queries better are framed.

    Args:
        matrix: For each model, from the oldest to the newest, the score of its queries in its own
            and every older index; None where no query has a positive.
        names: Names of the models.
        name: Name of the plot, unique in its page.
    """
    from matplotlib.patches import Rectangle

    size = len(names)
    table = np.full((size, size), np.nan)
    for i, row in enumerate(matrix):
        table[i, : len(row)] = [np.nan if value is None else value for value in row]
    figure, axes = _figure(2.4 + 0.9 * size, 0.8 + 0.5 * size)
    axes.imshow(table, cmap="Blues", vmin=np.nanmin(table) * 0.8, vmax=np.nanmax(table) * 1.2)
    for i, j in np.argwhere(~np.isnan(table)):
        axes.text(j, i, f"{table[i, j]:.3f}", ha="center", va="center", color=INK, fontsize=9)
        if i > j and table[i, j] > table[j, j]:
            frame = Rectangle((j - 0.48, i - 0.47), 0.96, 0.94, fill=False, edgecolor=COLORS[3])
            axes.add_patch(frame)
    axes.set_aspect("auto")
    axes.set_xticks(range(size), [f"index: {model}" for model in names])
    axes.set_yticks(range(size), [f"queries: {model}" for model in names])
    axes.xaxis.tick_top()
    return _to_svg(figure, name)


def recall_speed_plot(
    points: Sequence[Mapping[str, float]], exact_rate: float, name: str = "recall"
) -> str:
    """Queries per second (logarithmic) against recall@5, the selected setting filled."""
    figure, axes = _figure(6.0, 3.2)
    recalls = [point["recall_at_5"] for point in points]
    rates = [point["queries_per_second"] for point in points]
    axes.plot(recalls, rates, color=COLORS[0], linewidth=1.6, zorder=1)
    for point, recall, rate in zip(points, recalls, rates, strict=True):
        fill, size = (COLORS[0], 60) if point.get("selected") else ("#fff", 22)
        axes.scatter(recall, rate, size, color=fill, edgecolor=COLORS[0], linewidth=1.6, zorder=2)
    axes.scatter(1, exact_rate, 60, color=COLORS[2], marker="D", zorder=2)
    axes.text(0.997, exact_rate, "exact", ha="right", va="center", color=SOFT)
    axes.set_yscale("log")
    axes.set(xlabel="recall@5", ylabel="queries per second", xlim=(None, 1.004))
    axes.grid(color=LINE)
    return _to_svg(figure, name)


def scatter_map(
    projection: Projection2D, names: Sequence[str], titles: Sequence[str], label: str = "map"
) -> str:
    """Points of a projection colored by domain, each with a title shown under the pointer.

    Args:
        projection: P points.
        names: Domain keys, for the legend.
        titles: P texts.
        label: Name of the plot, unique in its page.
    """
    figure, axes = _figure(10.8, 7.4)
    titles_by_group = {}
    for number, key in enumerate(names):
        members = np.flatnonzero(projection.domains == number)
        if len(members):
            x, y = projection.points[members].T
            color = COLORS[number % len(COLORS)]
            dots = axes.scatter(x, y, 16, color=color, alpha=0.72, linewidth=0, label=key)
            dots.set_gid(f"{label}-{number}")
            titles_by_group[f"{label}-{number}"] = [titles[int(i)] for i in members]
    axes.legend(ncols=len(names), loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    axes.set_axis_off()
    return _to_svg(figure, label, titles_by_group)


def _figure(width: float, height: float) -> tuple["Figure", Any]:
    """A figure in inches and its axes; without pyplot, which keeps figures in a global state."""
    from matplotlib.figure import Figure

    figure = Figure((width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[:].set_visible(False)
    axes.tick_params(labelcolor=INK, labelsize=9, length=0)
    axes.set_axisbelow(True)
    return figure, axes


def _to_svg(figure: "Figure", name: str, titles: Mapping[str, Sequence[str]] | None = None) -> str:
    """SVG text for a page: no ids but those that are referred to, titles on a group's markers.

    Args:
        figure: The figure.
        name: Makes the ids unique in a page, and the same in every run.
        titles: Titles of the markers of the groups with these ids, in their order.
    """
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    root = ElementTree.fromstring(buffer.getvalue())
    root.set("role", "img")
    for metadata in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(metadata)
    for group in root.iter(f"{{{_SVG}}}g"):
        markers = list(group.iter(f"{{{_SVG}}}use"))
        for marker, title in zip(markers, (titles or {}).get(group.get("id", ""), ())):  # noqa: B905
            ElementTree.SubElement(marker, f"{{{_SVG}}}title").text = title
        group.attrib.pop("id", None)
    return ElementTree.tostring(root, encoding="unicode")
