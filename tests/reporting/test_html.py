"""The page of a report: complete, self-contained, escaped."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from tests.helpers.evaluated import make_records, make_results, make_source
from universal_embedding.evaluation.embed import EmbeddingSource, QueryIndexRecords
from universal_embedding.evaluation.evaluate import EvaluationConfig, evaluate_source, make_report
from universal_embedding.reporting import montage
from universal_embedding.reporting.html import write_html_report
from universal_embedding.reporting.tables import format_report_text, write_report
from universal_embedding.search import scann_index

VOID = {"meta", "img"}
NAMESPACES = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


@pytest.fixture(scope="module")
def evaluated():
    return make_results()


class BalancedParser(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.ids = [], []

    def handle_starttag(self, tag, attributes):
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.ids += [value for name, value in attributes if name == "id"]

    def handle_endtag(self, tag):
        if tag not in VOID:
            opened = self.open.pop()
            assert opened == tag or (opened, tag) == ("p", "section")


def report_of(evaluated, results):
    numbers = make_report(results, evaluated.config)
    return {"dataset": "demo", "split": "test"} | numbers


def test_page_is_self_contained_and_shows_every_row(evaluated, tmp_path):
    report = report_of(evaluated, evaluated.results)
    path = tmp_path / "report.html"
    write_html_report(report, evaluated.results, evaluated.eval_sets, path, num_examples=3)
    html = path.read_text()
    parser = BalancedParser()
    parser.feed(html)
    assert not parser.open and len(set(parser.ids)) == len(parser.ids)
    assert set(re.findall(r"https?://[^'\" ]+", html)) == NAMESPACES
    sources = re.findall(r'src="(.*?)"', html)
    assert sources and all(source.startswith("data:image/") for source in sources)
    assert "<script" not in html
    assert "&lt;zero &amp; one&gt;" in html and "<zero" not in html
    assert f"{report['merged']['mean']['r_at_1']:.3f}" in html
    assert html.count('class="tile-image query"') == sum(
        len(select(key, result.domains, result.results["merged"], 3))
        for result in evaluated.results
        for key in evaluated.eval_sets
        for select in (montage.worst_failures, montage.sample_queries)
    )


HOSTILE = '"><img src=x onerror=alert(1)>'


def test_names_of_domains_and_models_stay_text(tmp_path):
    labels = np.arange(12) % 6
    eval_sets = {HOSTILE: QueryIndexRecords(make_records(HOSTILE, labels), None)}
    config = EvaluationConfig(bootstrap_samples=10)
    results = [
        evaluate_source(make_source(name, 0.3), eval_sets, config)
        for name in (HOSTILE, "b\n\x1b[1m")
    ]
    report = {"dataset": HOSTILE, "split": "test", **make_report(results, config)}
    path = tmp_path / "report.html"
    write_html_report(report, results, eval_sets, path, num_examples=2)
    html = path.read_text()
    assert HOSTILE not in html and "&lt;img src=x onerror=alert(1)&gt;" in html
    policy = (
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:;'
    )
    assert html.index(policy) < html.index("<title>")  # no script would run even so
    _, markdown = write_report(report, tmp_path)
    assert "<img" not in markdown.read_text().replace("\\<img", "")
    assert "\x1b" not in markdown.read_text() + format_report_text(report)


def test_page_without_examples_reads_no_records(evaluated, tmp_path):
    report = report_of(evaluated, evaluated.results[:1])
    path = tmp_path / "report.html"
    write_html_report(report, evaluated.results[:1], {}, path, num_examples=0)
    assert "<img" not in path.read_text() and "domain confusion" in path.read_text()


def test_approximate_search_is_reported_with_recall_time_and_curve(tmp_path, monkeypatch):
    monkeypatch.setattr(scann_index, "MIN_INDEX_SIZE", 500)
    labels = np.arange(1200) % 300
    eval_sets = {key: QueryIndexRecords(make_records(key, labels), None) for key in ("a", "b")}
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((300, 16))

    def embed(records):
        rows = centers[records.labels.values] + 0.3 * rng.standard_normal((len(records), 16))
        return rows.astype(np.float32)

    config = EvaluationConfig(search=lambda: scann_index.ScannIndex(0.9), bootstrap_samples=10)
    result = evaluate_source(EmbeddingSource("x", embed), eval_sets, config)
    report = {"dataset": "d", "split": "test", **make_report([result], config)}
    search = report["search"]["merged"]
    assert not search["is_exact"] and 0.85 < search["recall_at_5"] <= 1
    curve = search["recall_speed_curve"]
    recalls = [point["recall_at_5"] for point in curve]
    assert recalls[-1] > 0.95 and recalls[-1] > recalls[0]
    selected = [point["recall_at_5"] for point in curve if point["selected"]]
    assert selected == [search["recall_at_5"]]
    assert "Approximate: recall@5" in format_report_text(report)
    path = tmp_path / "report.html"
    write_html_report(report, [result], eval_sets, path, num_examples=0)
    html = path.read_text()
    assert "approximate search, merged" in html and "approximate search, separate" in html
