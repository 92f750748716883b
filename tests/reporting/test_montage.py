"""Montages pixel by pixel, and the choice of queries."""

import io

import numpy as np
from PIL import Image

from tests.helpers.evaluated import make_results
from tests.helpers.fake_records import FakeRecords
from universal_embedding.evaluation.embed import QueryIndexRecords
from universal_embedding.reporting.montage import (
    BACKGROUND,
    FRAME,
    GAP,
    QUERY,
    RIGHT,
    WRONG,
    Neighbor,
    QueryRow,
    draw_query_rows,
    draw_validation_examples,
    worst_failures,
)


def encode_plain_image(color):
    out = io.BytesIO()
    Image.new("RGB", (30, 20), color).save(out, "PNG")
    return out.getvalue()


def test_draw_query_rows_frames_images_by_relevance():
    colors = {"a": (200, 30, 30), "b": (30, 30, 200)}
    eval_sets = {
        key: QueryIndexRecords(FakeRecords(key, [0, 0], [encode_plain_image(color)] * 2), None)
        for key, color in colors.items()
    }
    rows = [
        QueryRow(
            Neighbor("a", 0),
            (Neighbor("a", 1), Neighbor("b", 0, is_relevant=False)),
            Neighbor("a", 1),
        ),
        QueryRow(Neighbor("b", 1), (Neighbor("b", 0),), Neighbor("b", 0)),
    ]
    size = 20
    montage = draw_query_rows(rows, eval_sets, size)
    side = size + 2 * FRAME + GAP
    assert montage.shape == (2 * side, 3 * side, 3) and montage.dtype == np.uint8
    expected = [
        [(QUERY, "a"), (RIGHT, "a"), (WRONG, "b")],
        [(QUERY, "b"), (RIGHT, "b"), (BACKGROUND, None)],
    ]
    for y, row in enumerate(expected):
        for x, (frame, key) in enumerate(row):
            cell = montage[y * side : (y + 1) * side, x * side : (x + 1) * side].astype(int)
            np.testing.assert_array_equal(cell[0, 0], frame)
            np.testing.assert_array_equal(cell[size + 2 * FRAME - 1, 3], frame)
            middle = cell[side // 2 - 2, side // 2 - 2]
            assert np.abs(middle - (colors[key] if key else BACKGROUND)).max() <= 3


def test_worst_failures_are_sorted_by_relevant_neighbors_and_similarity():
    evaluated = make_results([("bad", 0.9)]).results[0]
    merged = evaluated.results["merged"]
    rows = worst_failures("b", evaluated.domains, merged, 100)
    assert len(rows) == (~merged.domains["b"].relevant[:, 0]).sum() > 3
    badness = [
        (sum(n.is_relevant for n in row.neighbors), -row.neighbors[0].similarity) for row in rows
    ]
    assert badness == sorted(badness)
    labels = evaluated.domains["b"].query_labels
    for row in rows:
        assert not row.neighbors[0].is_relevant
        assert row.best_positive.is_relevant and row.best_positive.record != row.query.record
        assert labels[row.best_positive.record] == labels[row.query.record]
        for neighbor in row.neighbors:
            same = neighbor.domain == "b" and labels[neighbor.record] == labels[row.query.record]
            assert neighbor.is_relevant == same


def test_draw_validation_examples_draws_the_same_queries_of_each_domain():
    evaluated = make_results([("good", 0.3)])
    result = evaluated.results[0]
    arguments = (result.domains, result.results["merged"], evaluated.eval_sets, 3)
    images = draw_validation_examples(*arguments)
    assert list(images) == ["b", "a"]
    for key, image in draw_validation_examples(*arguments).items():
        assert image.shape == (3 * (96 + 2 * FRAME + GAP), 6 * (96 + 2 * FRAME + GAP), 3)
        np.testing.assert_array_equal(image, images[key])
