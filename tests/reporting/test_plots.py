"""Plots: right marks for right numbers, and layouts that separate what is separate."""

import dataclasses
from xml.etree import ElementTree

import numpy as np
import pytest

from universal_embedding.reporting import plots

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg):
    return [element.text for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_tsne_separates_domains_and_scatter_map_titles_each_point():
    rng = np.random.default_rng(0)
    domains = {}
    for key, axis in (("a", 0), ("b", 1)):
        rows = 0.05 * rng.standard_normal((60, 70)) + np.eye(70)[axis]
        domains[key] = dataclasses.make_dataclass("D", ["query"])(rows.astype(np.float32))
    projection = plots.tsne(domains, max_points=80)
    assert np.bincount(projection.domains).tolist() == [40, 40]
    centers = [projection.points[projection.domains == domain].mean(0) for domain in (0, 1)]
    spread = max(projection.points[projection.domains == domain].std() for domain in (0, 1))
    assert np.linalg.norm(centers[0] - centers[1]) > spread
    titles = [f"{'ab'[d]} <{i}>" for i, d in enumerate(projection.domains)]
    svg = plots.scatter_map(projection, ["a", "b"], titles)
    found = [title.text for title in ElementTree.fromstring(svg).iter(f"{SVG}title")]
    assert found == [t for t in titles if t[0] == "a"] + [t for t in titles if t[0] == "b"]


def test_bar_chart_writes_values_and_leaves_out_missing_ones():
    series = {
        "merged": {"cars": (0.25, (0.2, 0.31)), "art": (None, None), "mean": (0.25, None)},
        "separate": {"cars": (0.5, None), "art": (0.125, (0.1, 0.2)), "mean": (0.3125, None)},
    }
    written = texts(plots.bar_chart(series, ("#000", "#999")))
    assert {"cars", "art", "mean"} <= set(written)
    numbers = sorted(text for text in written if "." in text and len(text) == 5)
    assert numbers == ["0.125", "0.250", "0.250", "0.312", "0.500"]


def test_heat_map_writes_every_count_and_the_totals():
    counts = {"a": {"a": 3, "b": 1234}, "b": {"a": 0, "b": 0}}
    written = texts(plots.heat_map(counts))
    assert sorted(t for t in written if t[0].isdigit()) == ["0", "1,234", "1,237", "3"]
    assert written.count("·") == 2


@pytest.mark.parametrize("exact_rate", [500.0, 9e4])
def test_recall_speed_plot_marks_exact_search(exact_rate):
    points = [
        {"recall_at_5": 0.9, "queries_per_second": 9e3, "selected": False},
        {"recall_at_5": 0.995, "queries_per_second": 3e3, "selected": True},
    ]
    svg = plots.recall_speed_plot(points, exact_rate)
    assert "exact" in texts(svg) and "nan" not in svg
    assert svg.count("<use") >= 3


def test_plots_are_the_same_text_every_time_and_ids_differ_by_name():
    counts = {"a": {"a": 3, "b": 1}, "b": {"a": 2, "b": 5}}
    assert plots.heat_map(counts, "x") == plots.heat_map(counts, "x")

    def ids(svg):
        return {e.get("id") for e in ElementTree.fromstring(svg).iter() if e.get("id")}

    series = {"merged": {"cars": (0.25, (0.2, 0.31))}}
    assert not ids(plots.bar_chart(series, "r", "x")) & ids(plots.bar_chart(series, "r", "y"))
