"""Contact sheet: sample images of each domain, with class names; and how such images are saved."""

import os
from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from universal_embedding.datasets.image_files import read_image
from universal_embedding.datasets.records import Records, list_splits, open_records
from universal_embedding.errors import UserError, printable
from universal_embedding.files import as_path, atomic_write, reporting_storage_errors

TILE = 128
CAPTION = 18
MARGIN = 6
COLUMNS = 10


def contact_sheet(
    data_dir: str | os.PathLike, dataset: str, keys: Iterable[str], columns: int = COLUMNS
) -> Image.Image:
    """Draws a row of images for each split of each domain, of different classes where possible."""
    rows = [
        open_records(data_dir, dataset, key, split)
        for key in keys
        for split in list_splits(data_dir, dataset, key)
    ]
    row_height = CAPTION + TILE + CAPTION + MARGIN
    canvas = Image.new("RGB", (columns * (TILE + MARGIN) + MARGIN, len(rows) * row_height), "white")
    for i, records in enumerate(rows):
        _draw_row(canvas, records, i * row_height, columns)
    return canvas


def save_montage(image: Image.Image, path: str | os.PathLike) -> None:
    """Writes an image file of the format that the name ends with.

    Raises:
        UserError: The file cannot be written.
    """
    try:
        with reporting_storage_errors(path), atomic_write(path, "wb") as file:
            image.save(file, Image.registered_extensions()[as_path(path).suffix.lower()])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"--montage={path} cannot be written ({error}); name a .png file") from None


def fit_text(
    text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, max_length: float
) -> str:
    """One line of `text`, with its end left out beyond `max_length` pixels."""
    text = printable(text)
    if font.getlength(text) <= max_length:
        return text
    while text and font.getlength(text + "...") > max_length:
        text = text[:-1]
    return text + "..."


def _draw_row(canvas: Image.Image, records: Records, top: int, columns: int) -> None:
    draw = ImageDraw.Draw(canvas)
    title_font, caption_font = ImageFont.load_default(14), ImageFont.load_default(11)
    title = f"{records.domain} / {records.split}: {len(records):,} images"
    draw.text((MARGIN, top + 1), title, "black", title_font)
    indices = _sample(records, columns)
    for column, (index, data) in enumerate(zip(indices, records.read(indices), strict=True)):
        left = MARGIN + column * (TILE + MARGIN)
        image = Image.fromarray(read_image(data))
        tile = ImageOps.pad(image, (TILE, TILE), color=(235, 235, 235))
        canvas.paste(tile, (left, top + CAPTION))
        names = [records.class_names.get(int(i), str(i)) for i in records.labels[index]]
        caption = fit_text(", ".join(names), caption_font, TILE)
        draw.text((left, top + CAPTION + TILE + 2), caption, (70, 70, 70), caption_font)


def _sample(records: Records, count: int) -> list[int]:
    """Record indices, of different classes first; the same ones on each call."""
    order = np.random.default_rng(0).permutation(len(records))
    first_labels = records.labels.values[records.labels.splits[:-1]][order]
    _, first_of_class = np.unique(first_labels, return_index=True)
    first_of_class = np.sort(first_of_class)
    rest = np.setdiff1d(np.arange(len(order)), first_of_class)
    return order[np.concatenate([first_of_class, rest])[:count]].tolist()
