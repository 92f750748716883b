"""Pictures of pictures: a query with its matches, or many such rows, as one image."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from universal_embedding.errors import UserError
from universal_embedding.gallery.evaluation import Found
from universal_embedding.gallery.index import Index
from universal_embedding.gallery.pictures import read
from universal_embedding.gallery.search import Match

TILE, GAP, TEXT, FRAME = 180, 12, 44, 4
PAPER, INK, GREY = "#ffffff", "#1b1f24", "#5b6470"
QUERY, RIGHT, WRONG = "#2f5fd0", "#1a7f4b", "#c2352b"
COLUMNS = 5


@dataclass(frozen=True)
class Tile:
    """One picture of a sheet, its frame's colour and the two lines under it."""

    picture: Path
    colour: str
    title: str
    note: str


def of_query(index: Index, query: Path, matches: Sequence[Match]) -> Image.Image:
    """The query, then its matches in rows of five."""
    tiles = [_match(index, m, GREY) for m in matches]
    rows = [tiles[i : i + COLUMNS] for i in range(0, len(tiles), COLUMNS)] or [[]]
    first = Tile(query, QUERY, "query", query.name)
    return _sheet([[first, *rows[0]], *([None, *row] for row in rows[1:])])


def of_failures(index: Index, failures: Sequence[Found]) -> Image.Image:
    """A row for each failure: the picture, then its neighbours framed right or wrong."""
    return _sheet(
        [
            [
                Tile(
                    index.gallery / index.names[f.number],
                    QUERY,
                    f.category or "-",
                    _name(index, f.number),
                ),
                *(
                    _match(index, m, RIGHT if m.category == f.category else WRONG)
                    for m in f.matches
                ),
            ]
            for f in failures
        ]
    )


def save(sheet: Image.Image, path: Path) -> None:
    """Writes a sheet; the suffix names the format.

    Raises:
        UserError: The place or the suffix cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path)
    except (OSError, ValueError) as error:
        raise UserError(f"--sheet={path} cannot be written ({error}): name a .png file") from None


def _match(index: Index, match: Match, colour: str) -> Tile:
    note = f"{match.distance:.3f}  {_name(index, match.number)}"
    return Tile(index.gallery / match.name, colour, match.category or "-", note)


def _name(index: Index, number: int) -> str:
    return index.names[number].split("/")[-1]


def _sheet(rows: Sequence[Sequence[Tile | None]]) -> Image.Image:
    columns = max(len(row) for row in rows)
    step = TILE + GAP, TILE + TEXT + GAP
    sheet = Image.new("RGB", (GAP + columns * step[0], GAP + len(rows) * step[1]), PAPER)
    draw = ImageDraw.Draw(sheet)
    bold, plain = ImageFont.load_default(15), ImageFont.load_default(12)
    for y, row in enumerate(rows):
        for x, tile in enumerate(row):
            if tile is None:
                continue
            left, top = GAP + x * step[0], GAP + y * step[1]
            framed = ImageOps.expand(_thumbnail(tile.picture), FRAME, tile.colour)
            sheet.paste(framed, (left + (TILE - framed.width) // 2, top + TILE - framed.height))
            draw.text((left, top + TILE + 4), _fit(tile.title, bold), tile.colour, bold)
            draw.text((left, top + TILE + 24), _fit(tile.note, plain), INK, plain)
    return sheet


def _thumbnail(path: Path) -> Image.Image:
    side = TILE - 2 * FRAME
    try:
        picture = Image.fromarray(read(path))
    except UserError:  # gone since it was indexed
        picture = Image.fromarray(np.full((side, side, 3), 220, np.uint8))
    return ImageOps.contain(picture, (side, side))


def _fit(text: str, font: ImageFont.ImageFont) -> str:
    if font.getlength(text) <= TILE:
        return text
    while text and font.getlength(text + "...") > TILE:
        text = text[:-1]
    return text + "..."
