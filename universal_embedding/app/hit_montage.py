"""Montages of matches: a query with its hits, or the failures of an evaluation, as one image."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from universal_embedding.app.leave_one_out import QueryResult
from universal_embedding.app.searchable import SearchableIndex, SearchHit
from universal_embedding.datasets.contact_sheet import fit_text
from universal_embedding.datasets.image_files import read_image
from universal_embedding.errors import UserError

TILE, GAP, TEXT, FRAME = 180, 12, 44, 4  # pixels
PAPER, INK, GRAY = "#ffffff", "#1b1f24", "#5b6470"
QUERY, RIGHT, WRONG = "#2f5fd0", "#1a7f4b", "#c2352b"
COLUMNS = 5


@dataclass(frozen=True)
class Tile:
    """One image of a montage, the color of its frame and the two lines under it.

    It is gray where there is no file.
    """

    path: Path | None
    color: str
    title: str
    note: str


def query_montage(index: SearchableIndex, query: Path, hits: Sequence[SearchHit]) -> Image.Image:
    """Draws a query, then its hits in rows of five."""
    tiles = [_hit_tile(index, hit, GRAY) for hit in hits]
    rows = [tiles[i : i + COLUMNS] for i in range(0, len(tiles), COLUMNS)] or [[]]
    first = Tile(query, QUERY, "query", query.name)
    return _draw([[first, *rows[0]], *([None, *row] for row in rows[1:])])


def failure_montage(index: SearchableIndex, failures: Sequence[QueryResult]) -> Image.Image:
    """Draws one row per failure: the image, then its neighbors framed right or wrong."""
    rows = []
    for failure in failures:
        path = index.image_path(failure.index)
        name = PurePath(index.hit(failure.index, 0).name).name
        row = [Tile(path, QUERY, failure.category or "-", name)]
        for hit in failure.hits:
            color = RIGHT if hit.category == failure.category else WRONG
            row.append(_hit_tile(index, hit, color))
        rows.append(row)
    return _draw(rows)


def _hit_tile(index: SearchableIndex, hit: SearchHit, color: str) -> Tile:
    path, name = index.image_path(hit.index), PurePath(hit.name).name
    return Tile(path, color, hit.category or "-", f"{hit.distance:.3f}  {name}")


def _draw(rows: Sequence[Sequence[Tile | None]]) -> Image.Image:
    columns = max(len(row) for row in rows)
    step = TILE + GAP, TILE + TEXT + GAP
    montage = Image.new("RGB", (GAP + columns * step[0], GAP + len(rows) * step[1]), PAPER)
    draw = ImageDraw.Draw(montage)
    bold, plain = ImageFont.load_default(15), ImageFont.load_default(12)
    for y, row in enumerate(rows):
        for x, tile in enumerate(row):
            if tile is None:
                continue
            left, top = GAP + x * step[0], GAP + y * step[1]
            framed = ImageOps.expand(_thumbnail(tile.path), FRAME, tile.color)
            montage.paste(framed, (left + (TILE - framed.width) // 2, top + TILE - framed.height))
            draw.text((left, top + TILE + 4), fit_text(tile.title, bold, TILE), tile.color, bold)
            draw.text((left, top + TILE + 24), fit_text(tile.note, plain, TILE), INK, plain)
    return montage


def _thumbnail(path: Path | None) -> Image.Image:
    side = TILE - 2 * FRAME
    pixels = np.full((side, side, 3), 220, np.uint8)
    if path is not None:
        with contextlib.suppress(UserError):  # gone since it was indexed
            pixels = read_image(path)
    return ImageOps.contain(Image.fromarray(pixels), (side, side))
