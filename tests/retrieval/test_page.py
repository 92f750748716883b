import dataclasses
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from fake_records import FakeRecords, fake
from PIL import Image

from universal_embedding.errors import UserError
from universal_embedding.retrieval import (
    approximate,
    assessment,
    atlas,
    charts,
    page,
    report,
    sheets,
    sources,
)
from universal_embedding.retrieval.sources import Pair

VOID = {"meta", "img", "i", "line", "rect", "path", "circle"}


class Pictured(FakeRecords):
    class_names = {0: "<zero & one>"}  # noqa: RUF012

    def read(self, numbers):
        contents = []
        for number in numbers:
            out = io.BytesIO()
            Image.new("RGBA", (30 + int(number), 20), (int(number), 90, 200, 128)).save(out, "PNG")
            contents.append(out.getvalue())
        return contents


def pictured(*args):
    return Pictured(**vars(fake(*args)))


@pytest.fixture(scope="module")
def pairs():
    classes = np.arange(30) % 6
    return {
        "b": Pair(pictured("b", "test", classes), None),
        "a": Pair(pictured("a", "test", classes), pictured("a", "index", classes, "y")),
    }


def source(name, noise):
    def embed(records):
        rng = np.random.default_rng(len(records.split))
        rows = np.eye(6, 8)[records.labels.values] + noise * rng.standard_normal((len(records), 8))
        return rows.astype(np.float32)

    return sources.Source(name, embed)


@pytest.fixture(scope="module")
def assessed(pairs):
    options = assessment.Options(resamples=50)
    return [assessment.assess(source(*x), pairs, options) for x in (("good", 0.3), ("bad", 0.9))]


class Balanced(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


def test_page_opens_alone_and_shows_what_was_found(assessed, pairs, tmp_path):
    numbers = assessment.numbers(assessed, assessment.Options(resamples=50))
    numbers |= {"dataset": "demo", "split": "test"}
    html = page.write(numbers, assessed, pairs, tmp_path / "report.html", examples=3).read_text()
    parser = Balanced()
    parser.feed(html)
    assert not parser.open
    assert set(re.findall(r"https?://[^'\" ]+", html)) == {"http://www.w3.org/2000/svg"}
    assert all(address.startswith("data:image/") for address in re.findall(r"src='(.*?)'", html))
    assert "&lt;zero &amp; one&gt;" in html and "<zero" not in html
    assert f"{numbers['merged']['mean']['r_at_1']:.3f}" in html
    assert html.count("class='pic query'") == sum(
        len(rows(key, one.domains, one.results["merged"], 3))
        for one in assessed
        for key in pairs
        for rows in (sheets.worst_failures, sheets.drawn)
    )


def test_page_without_pictures_needs_no_records(assessed, tmp_path):
    numbers = {"dataset": "demo", "split": "test"}
    numbers |= assessment.numbers(assessed[:1], assessment.Options(resamples=0))
    html = page.write(numbers, assessed[:1], {}, tmp_path / "report.html", examples=0).read_text()
    assert "<img" not in html and "domain confusion" in html


def test_worst_failures_come_first(assessed):
    one = assessed[1]
    result = one.results["merged"].domains["b"]
    rows = sheets.worst_failures("b", one.domains, one.results["merged"], 100)
    assert len(rows) == (~result.relevant[:, 0]).sum() > 3
    badness = [
        (sum(shown.right for shown in row.neighbours), -row.neighbours[0].score) for row in rows
    ]
    assert badness == sorted(badness)
    for row in rows:
        assert not row.neighbours[0].right
        assert row.best_right.right and row.best_right.record != row.query.record
        labels = one.domains["b"].query_labels
        assert labels[row.best_right.record] == labels[row.query.record]
        for shown in row.neighbours:
            same = shown.domain == "b" and labels[shown.record] == labels[row.query.record]
            assert shown.right == same


def test_specialists_are_measured_each_in_its_own_domain(pairs):
    options = assessment.Options(resamples=0)
    good, bad = source("good", 0.3), source("bad", 0.9)
    one = assessment.assess_specialists({"a": good, "b": bad}, pairs, options)
    block = assessment.numbers([one], options)["specialist_oracle"]
    for key, of in (("a", good), ("b", bad)):
        alone = assessment.assess(of, {key: pairs[key]}, options)
        assert block[key] == assessment.numbers([alone], options)["separate"][key]
    with pytest.raises(UserError, match="specialists are given for a, but the domains are b, a"):
        assessment.assess_specialists({"a": good}, pairs, options)


def test_specialists_are_compared_with_the_separate_protocol(assessed, pairs):
    options = assessment.Options(resamples=0)
    same = source("good", 0.3)
    special = assessment.assess_specialists({"a": same, "b": same}, pairs, options)
    block = assessment.numbers([assessed[0], special], options)["compared"]["specialists"]
    assert block["difference"]["specialist_oracle"]["mean"]["r_at_1"]["difference"] == 0


def test_map_separates_what_is_separate():
    rng = np.random.default_rng(0)
    made = {}
    for key, axis in (("a", 0), ("b", 1)):
        rows = 0.05 * rng.standard_normal((60, 70)) + np.eye(70)[axis]
        made[key] = dataclasses.make_dataclass("D", ["query"])(rows.astype(np.float32))
    drawn = atlas.draw(made, most=80)
    assert np.bincount(drawn.domains).tolist() == [40, 40]
    middles = [drawn.places[drawn.domains == domain].mean(0) for domain in (0, 1)]
    within = max(drawn.places[drawn.domains == domain].std() for domain in (0, 1))
    assert np.linalg.norm(middles[0] - middles[1]) > within
    picture = charts.point_map(drawn.places, drawn.domains, ["a", "b"], ["x"] * 80)
    assert picture.count("<circle") == 80


def test_approximate_search_is_reported_with_recall_time_and_curve(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(approximate, "SMALLEST", 500)
    classes = np.arange(1200) % 300
    pairs = {key: Pair(pictured(key, "test", classes), None) for key in ("a", "b")}
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((300, 16))

    def embed(records):
        rows = centres[records.labels.values] + 0.3 * rng.standard_normal((len(records), 16))
        return rows.astype(np.float32)

    options = assessment.Options(search=lambda: approximate.ScannTree(0.9), resamples=10)
    one = assessment.assess(sources.Source("x", embed), pairs, options)
    numbers = {"dataset": "d", "split": "test", **assessment.numbers([one], options)}
    search = numbers["search"]["merged"]
    assert not search["exact"] and 0.85 < search["recall_at_5"] <= 1
    recalls = [point["recall_at_5"] for point in search["curve"]]
    assert recalls[-1] > 0.95 and recalls[-1] > recalls[0]
    assert [point["recall_at_5"] for point in search["curve"] if point["chosen"]] == [
        search["recall_at_5"]
    ]
    assert "Approximate: recall@5" in report.text(numbers)
    html = page.write(numbers, [one], pairs, tmp_path / "r.html", examples=0).read_text()
    assert "approximate search, merged" in html and "approximate search, separate" in html


def test_curve_is_drawn_where_search_is_approximate():
    points = [
        {"recall_at_5": 0.9, "queries_per_second": 9e3, "chosen": False, "leaves_to_search": 1},
        {"recall_at_5": 0.995, "queries_per_second": 3e3, "chosen": True, "leaves_to_search": 9},
    ]
    picture = charts.curve(points, exact_rate=500.0)
    assert picture.count("<circle") == 2 and "nan" not in picture and "exact" in picture
