"""Leave-one-out evaluation of an index, by hand and by brute force."""

import numpy as np
import pytest

from universal_embedding.app import hit_montage
from universal_embedding.app.image_index import SearchHit
from universal_embedding.app.leave_one_out import (
    QueryResult,
    find_threshold,
    format_report,
    leave_one_out,
    make_report,
    worst_failures,
)
from universal_embedding.datasets.contact_sheet import save_montage
from universal_embedding.errors import UserError


def result(index, category, num_counted, *neighbors):
    hits = [SearchHit(9, "x", c, d) for c, d in neighbors]
    return QueryResult(index, category, num_counted, hits)


def test_report_by_hand():
    report = make_report(
        [
            result(0, "tower", 2, ("tower", 0.1), ("souvenir", 0.2), ("tower", 0.9)),  # 1 of 2
            result(1, "tower", 2, ("souvenir", 0.3), ("souvenir", 0.4), ("tower", 0.5)),  # 0 of 2
            result(2, "souvenir", 1, ("souvenir", 0.6), ("tower", 0.7)),  # 1 of 1
            result(3, "dog", 0, ("tower", 0.01)),  # alone: not counted
        ],
        target_precision=0.5,
    )
    assert report["mmp_at_5"] == pytest.approx((1 / 2 + 0 + 1) / 3)
    assert report["r_at_1"] == pytest.approx(2 / 3)
    assert report["num_singletons"] == 1 and "dog" not in report["categories"]
    assert report["categories"]["tower"]["mmp_at_5"] == pytest.approx(1 / 4)
    confusion = {"category": "tower", "nearest_category": "souvenir", "num_images": 1}
    assert report["confusions"] == [confusion | {"fraction": 0.5}]
    # By distance: right .1, wrong .2 .3 .4, right .6 -> precisions 1, 1/2, 1/3, 1/4, 2/5.
    row = report["threshold"]
    assert row["max_distance"] == pytest.approx(0.25) and row["precision"] == 0.5
    assert row["matches"] == pytest.approx(2 / 5) and row["answered"] == pytest.approx(1 / 3)
    assert "tower -> souvenir: 50.0% (1)" in format_report(report)


def test_threshold_equals_brute_force():
    random = np.random.default_rng(0)
    for _ in range(50):
        results = []
        for i in range(8):
            distances = sorted(random.integers(1, 9, 3) / 10)
            results.append(result(i, "a", 3, *(("ab"[random.integers(2)], d) for d in distances)))
        target = random.choice([0.4, 0.6, 0.8])
        limit = find_threshold(results, target)["max_distance"]
        pairs = [(hit.distance, hit.category == "a") for r in results for hit in r.hits]
        precision = {d: np.mean([right for e, right in pairs if e <= d]) for d, _ in pairs}
        precise = [d for d, value in precision.items() if value >= target]
        assert (limit is None) == (not precise)
        if precise:
            within = {d for d, _ in pairs if d <= limit}
            assert within == {d for d, _ in pairs if d <= max(precise)}


def test_leave_one_out_equals_single_searches(index):
    for single in leave_one_out(index):
        hits = index.search(single.index, 5)
        assert [h.index for h in single.hits] == [h.index for h in hits]
        np.testing.assert_allclose([h.distance for h in single.hits], [h.distance for h in hits])
        assert single.num_counted == 3


def test_leave_one_out_of_easy_colors_and_the_montage_of_failures(index, tmp_path):
    results = leave_one_out(index)
    report = make_report(results, 0.9)
    assert report["num_images"] == 12 and report["mmp_at_5"] == 1.0
    assert worst_failures(results) == [] and report["confusions"] == []
    worst = result(0, "blue", 2, ("red", 0.1), ("red", 0.2))
    half = result(0, "blue", 2, ("red", 0.1), ("blue", 0.2))
    assert worst_failures([half, worst, results[0]]) == [worst, half]
    wrong = QueryResult(0, "blue", 2, index.search(0, 4, category="red"))
    montage = hit_montage.failure_montage(index, [wrong, wrong])
    assert montage.size == (12 + 5 * 192, 12 + 2 * 236)
    frame = montage.getpixel((montage.width - 12 - 90, 12 + 180 - 2))
    assert frame == (0xC2, 0x35, 0x2B)  # red
    with pytest.raises(UserError, match=r"name a \.png file"):
        save_montage(montage, tmp_path / "montage.what")


def test_an_index_without_pairs_is_refused():
    with pytest.raises(UserError, match="no category of the index has two images"):
        make_report([result(0, "dog", 0, ("tower", 0.01))], 0.9)
