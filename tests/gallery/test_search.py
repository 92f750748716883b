import numpy as np
import pytest

from universal_embedding.errors import UserError
from universal_embedding.gallery import evaluation, sheets
from universal_embedding.gallery.evaluation import Found
from universal_embedding.gallery.index import Index
from universal_embedding.gallery.search import Gallery, Match


def naive(rows, query, own=None):
    """(distance, number) of every other picture, nearest first."""
    pairs = []
    for number, row in enumerate(rows):
        if number != own:
            squares = sum((float(a) - float(b)) ** 2 for a, b in zip(row, query, strict=True))
            pairs.append((squares**0.5, number))
    return sorted(pairs)


def test_nearest_is_the_naive_search(gallery, picture):
    rows = gallery.index.embeddings
    for colour in ("red", "green"):
        query = gallery.embed(np.asarray(picture(colour, 55)))
        matches = gallery.nearest(query, 12)
        distances, numbers = zip(*naive(rows, query), strict=True)
        assert [m.number for m in matches] == list(numbers)
        np.testing.assert_allclose([m.distance for m in matches], distances, atol=1e-6)
        cosine = gallery.nearest(query, 12, "cosine")
        assert [m.number for m in cosine] == list(numbers)
        wanted = 1 - rows[list(numbers)] @ query
        np.testing.assert_allclose([m.distance for m in cosine], wanted, atol=1e-6)


def test_a_gallery_picture_does_not_find_itself(gallery):
    rows = gallery.index.embeddings
    for number in range(12):
        matches = gallery.nearest(number, 12)
        assert [m.number for m in matches] == [n for _, n in naive(rows, rows[number], number)]
        blue = gallery.nearest(number, 12, category="blue")
        assert {m.number for m in blue} == set(range(4)) - {number}


def test_category_and_reject_threshold(gallery):
    distances = [m.distance for m in gallery.nearest(0, 11)]
    limit = distances[3]
    assert [m.distance for m in gallery.nearest(0, 11, max_distance=limit)] == distances[:4]
    assert gallery.nearest(0, 11, max_distance=0.0) == []
    assert {m.category for m in gallery.nearest(0, 11, category="red")} == {"red"}
    with pytest.raises(UserError, match="'grey' is not in the gallery"):
        gallery.nearest(0, category="grey")
    with pytest.raises(UserError, match="distance is 'taxicab'"):
        gallery.nearest(0, distance="taxicab")


def test_a_large_gallery_is_searched_by_a_tree(model, tmp_path):
    rows = np.random.default_rng(0).normal(size=(25_000, 16)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    names = [f"{i % 2}/{i}.png" for i in range(len(rows))]
    index = Index(tmp_path, tmp_path, model.fingerprint, names, [(0, 0)] * len(rows), rows)
    gallery = Gallery(index, model, tmp_path, exact_below=20_000)
    assert not gallery.is_exact
    recall = float(gallery.approximation().split("recall@5 ")[1].split()[0])
    assert recall > 0.97
    best = np.argsort(-(rows[1::2] @ rows[7]))[1:4] * 2 + 1
    matches = gallery.nearest(7, 3, category="1")  # half of it: below 20,000, so exact
    assert [m.number for m in matches] == best.tolist()


def found(number, category, wanted, *others):
    return Found(number, category, wanted, [Match(9, "x", c, d) for c, d in others])


def test_evaluation_by_hand():
    report = evaluation.evaluate(
        [
            found(0, "tower", 2, ("tower", 0.1), ("souvenir", 0.2), ("tower", 0.9)),  # 1 of 2
            found(1, "tower", 2, ("souvenir", 0.3), ("souvenir", 0.4), ("tower", 0.5)),  # 0 of 2
            found(2, "souvenir", 1, ("souvenir", 0.6), ("tower", 0.7)),  # 1 of 1
            found(3, "dog", 0, ("tower", 0.01)),  # alone: counted nowhere
        ],
        precision=0.5,
    )
    assert report["precision_at_5"] == pytest.approx((1 / 2 + 0 + 1) / 3)
    assert report["r_at_1"] == pytest.approx(2 / 3)
    assert report["alone"] == 1 and "dog" not in report["categories"]
    assert report["categories"]["tower"]["precision_at_5"] == pytest.approx(1 / 4)
    assert report["taken_for"] == [{"of": "tower", "for": "souvenir", "pictures": 1, "share": 0.5}]
    # by distance: right .1, wrong .2 .3 .4, right .6 -> precisions 1, 1/2, 1/3, 1/4, 2/5
    row = report["threshold"]
    assert row["max_distance"] == pytest.approx(0.25) and row["precision"] == 0.5
    assert row["matches"] == pytest.approx(2 / 5) and row["answered"] == pytest.approx(1 / 3)
    assert "tower for souvenir: 50.0% (1)" in evaluation.text(report)


def test_threshold_by_brute_force():
    random = np.random.default_rng(0)
    for _ in range(50):
        rows = []
        for i in range(8):
            distances = sorted(random.integers(1, 9, 3) / 10)
            rows.append(found(i, "a", 3, *(("ab"[random.integers(2)], d) for d in distances)))
        wished = random.choice([0.4, 0.6, 0.8])
        limit = evaluation.threshold(rows, wished)["max_distance"]
        pairs = [(m.distance, m.category == "a") for f in rows for m in f.matches]
        shares = {d: np.mean([r for e, r in pairs if e <= d]) for d, _ in pairs}
        good = [d for d, share in shares.items() if share >= wished]
        assert (limit is None) == (not good)
        if good:
            assert {d for d, _ in pairs if d <= limit} == {d for d, _ in pairs if d <= max(good)}


def test_leave_one_out_and_its_sheet(gallery, tmp_path):
    every = evaluation.leave_one_out(gallery)
    report = evaluation.evaluate(every, 0.9)
    assert report["pictures"] == 12 and report["precision_at_5"] == 1.0  # colours are easy
    assert evaluation.failures(every) == [] and report["taken_for"] == []
    worst = found(0, "blue", 2, ("red", 0.1), ("red", 0.2))
    half = found(0, "blue", 2, ("red", 0.1), ("blue", 0.2))
    assert evaluation.failures([half, worst, every[0]]) == [worst, half]
    wrong = Found(0, "blue", 2, gallery.nearest(0, 4, category="red"))
    sheet = sheets.of_failures(gallery.index, [wrong, wrong])
    assert sheet.size == (12 + 5 * 192, 12 + 2 * 236)
    assert sheet.getpixel((sheet.width - 12 - 90, 12 + 180 - 2)) == (0xC2, 0x35, 0x2B)  # red frame
    with pytest.raises(UserError, match=r"name a \.png file"):
        sheets.save(sheet, tmp_path / "sheet.what")
