"""A drawn sheet, pixel by pixel."""

import io

import numpy as np
from PIL import Image
from support.fake_records import FakeRecords

from universal_embedding.retrieval.picture_rows import (
    BACKGROUND,
    FRAME,
    GAP,
    QUERY,
    RIGHT,
    WRONG,
    draw_rows,
)
from universal_embedding.retrieval.sheets import Row, Shown
from universal_embedding.retrieval.sources import Pair


def test_frames_say_what_is_right_and_pictures_are_where_they_belong():
    colours = {"a": (200, 30, 30), "b": (30, 30, 200)}
    pairs = {
        key: Pair(FakeRecords(key, [_plain(colour), _plain(colour)]), None)
        for key, colour in colours.items()
    }
    rows = [
        Row(Shown("a", 0), (Shown("a", 1), Shown("b", 0, right=False)), Shown("a", 1)),
        Row(Shown("b", 1), (Shown("b", 0),), Shown("b", 0)),
    ]
    size = 20
    sheet = draw_rows(rows, pairs, size)
    side = size + 2 * FRAME + GAP
    assert sheet.shape == (2 * side, 3 * side, 3) and sheet.dtype == np.uint8
    wanted = [
        [(QUERY, "a"), (RIGHT, "a"), (WRONG, "b")],
        [(QUERY, "b"), (RIGHT, "b"), (BACKGROUND, None)],
    ]
    for y, row in enumerate(wanted):
        for x, (frame, key) in enumerate(row):
            cell = sheet[y * side : (y + 1) * side, x * side : (x + 1) * side].astype(int)
            np.testing.assert_array_equal(cell[0, 0], frame)
            np.testing.assert_array_equal(cell[size + 2 * FRAME - 1, 3], frame)
            middle = cell[side // 2 - 2, side // 2 - 2]
            assert np.abs(middle - (colours[key] if key else BACKGROUND)).max() <= 3


def _plain(colour):
    out = io.BytesIO()
    Image.new("RGB", (30, 20), colour).save(out, "PNG")
    return out.getvalue()
