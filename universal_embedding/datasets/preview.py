"""A sheet of sample pictures of each domain, with class names."""

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from universal_embedding.datasets.records import Records, open_records, splits
from universal_embedding.errors import UserError

TILE = 128
CAPTION = 18
MARGIN = 6
COLUMNS = 10


def sheet(data_dir: Path, dataset: str, keys: Iterable[str], columns: int = COLUMNS) -> Image.Image:
    """A row of pictures for each split of each domain, of different classes as far as there are."""
    rows = [
        open_records(data_dir, dataset, key, split)
        for key in keys
        for split in splits(data_dir, dataset, key)
    ]
    height = CAPTION + TILE + CAPTION + MARGIN
    canvas = Image.new("RGB", (columns * (TILE + MARGIN) + MARGIN, len(rows) * height), "white")
    for number, records in enumerate(rows):
        _draw_row(canvas, records, number * height, columns)
    return canvas


def _draw_row(canvas: Image.Image, records: Records, top: int, columns: int) -> None:
    draw = ImageDraw.Draw(canvas)
    head, small = ImageFont.load_default(14), ImageFont.load_default(11)
    title = f"{records.domain} / {records.split}: {len(records):,} pictures"
    draw.text((MARGIN, top + 1), title, "black", head)
    numbers = _sample(records, columns)
    for column, (number, data) in enumerate(zip(numbers, records.read(numbers), strict=True)):
        left = MARGIN + column * (TILE + MARGIN)
        picture = Image.open(io.BytesIO(data)).convert("RGB")
        tile = ImageOps.pad(picture, (TILE, TILE), color=(235, 235, 235))
        canvas.paste(tile, (left, top + CAPTION))
        names = [records.class_names.get(int(i), str(i)) for i in records.labels[number]]
        caption = _fitted(", ".join(names), draw, small)
        draw.text((left, top + CAPTION + TILE + 2), caption, (70, 70, 70), small)


def _sample(records: Records, count: int) -> list[int]:
    """Record numbers: of different classes first, the same ones on each call."""
    order = np.random.default_rng(0).permutation(len(records))
    first = records.labels.values[records.labels.splits[:-1]][order]
    _, fresh = np.unique(first, return_index=True)
    fresh = np.sort(fresh)
    rest = np.setdiff1d(np.arange(len(order)), fresh)
    return order[np.concatenate([fresh, rest])[:count]].tolist()


def _fitted(text: str, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont) -> str:
    if draw.textlength(text, font) <= TILE:
        return text
    while draw.textlength(text + "...", font) > TILE:
        text = text[:-1]
    return text + "..."


def write(file: Path, data_dir: Path, dataset: str, keys: Iterable[str]) -> None:
    """Writes the sheet as an image file."""
    try:
        sheet(data_dir, dataset, keys).save(file)
    except (OSError, ValueError) as error:
        raise UserError(f"--preview={file} cannot be written: {error}") from None
