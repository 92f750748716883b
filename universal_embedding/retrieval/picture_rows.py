"""Queries and their neighbours as one picture, for places that show no page."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageOps

from universal_embedding.retrieval.sheets import Row
from universal_embedding.retrieval.sources import Pair

RIGHT, WRONG, QUERY, BACKGROUND = (26, 150, 65), (215, 48, 39), (90, 90, 90), (255, 255, 255)
FRAME, GAP = 4, 4  # pixels


def draw_rows(rows: Sequence[Row], pairs: Mapping[str, Pair], size: int = 96) -> np.ndarray:
    """Draws a row for each query: itself framed in grey, its neighbours in green or red.

    Args:
        rows: R of them.
        pairs: Where the pictures are.
        size: Side of each picture within its frame, pixels; shorter sides are filled with white.

    Returns:
        `[R * (size + 12), N * (size + 12), 3]` uint8; N is the most pictures of a row.
    """
    side = size + 2 * FRAME + GAP
    width = max(1 + len(row.neighbours) for row in rows)
    sheet = Image.new("RGB", (width * side, len(rows) * side), BACKGROUND)
    for y, row in enumerate(rows):
        shown = [(row.query, pairs[row.query.domain].queries, QUERY)]
        for near in row.neighbours:
            shown.append((near, pairs[near.domain].searched, RIGHT if near.right else WRONG))
        for x, (of, records, colour) in enumerate(shown):
            (contents,) = records.read([of.record])
            sheet.paste(_framed(contents, size, colour), (x * side, y * side))
    return np.asarray(sheet)


def _framed(contents: bytes, size: int, colour: tuple[int, int, int]) -> Image.Image:
    with Image.open(io.BytesIO(contents)) as image:
        image.draft("RGB", (2 * size, 2 * size))
        whole = ImageOps.pad(image.convert("RGB"), (size, size), color=BACKGROUND)
    return ImageOps.expand(whole, FRAME, colour)
