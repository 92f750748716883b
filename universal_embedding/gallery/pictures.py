"""Pictures from people: files of a folder, and uploads that nobody has checked."""

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from universal_embedding.errors import UserError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
MAX_PIXELS = 50_000_000
LONGEST_SIDE = 1024

Box = tuple[float, float, float, float]


def list_pictures(folder: Path) -> tuple[list[str], int]:
    """The pictures under `folder`, by suffix, and how many other files are there.

    Returns:
        Sorted names relative to `folder` with `/` between their parts, and the number of files
        passed over: other suffixes, hidden files, and links that lead out of the folder.

    Raises:
        UserError: `folder` is no folder.
    """
    if not folder.is_dir():
        raise UserError(f"--gallery={folder} is not a folder: name the folder of the pictures")
    root, names, others = folder.resolve(), [], 0
    for directory, _, files in os.walk(root):
        for file in files:
            path = Path(directory, file)
            wanted = path.suffix.lower() in SUFFIXES and not file.startswith(".")
            if wanted and path.resolve().is_relative_to(root):
                names.append(path.relative_to(root).as_posix())
            else:
                others += 1
    return sorted(names), others


def category(name: str) -> str:
    """The first folder of a picture's name; empty for a picture of the gallery's root."""
    return name.split("/")[0] if "/" in name else ""


def read(
    source: Path | bytes,
    crop: Box | None = None,
    max_pixels: int = MAX_PIXELS,
    longest_side: int = LONGEST_SIDE,
) -> np.ndarray:
    """Decodes a picture as it is meant to be seen: rotated by its EXIF data, on white, frame 1.

    The size is read from the header and checked before anything is decoded.

    Args:
        source: A file, or its bytes.
        crop: (left, top, right, bottom) in 0..1 of the width and height; None for all of it.
        max_pixels: Width x height beyond which a picture is refused.
        longest_side: A larger picture (after the crop) is scaled down to it; the model's input
            is smaller still.

    Returns:
        `[H, W, 3]` uint8, RGB.

    Raises:
        UserError: It is no picture, is damaged, or is too large.
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with Image.open(file, "r", FORMATS) as picture:
            if picture.width * picture.height > max_pixels:
                raise UserError(
                    f"the picture has {picture.width} x {picture.height} pixels, more than "
                    f"{max_pixels:,}: give a smaller one"
                )
            if crop is None:  # a JPEG decoder can scale by itself, which is faster
                picture.draft("RGB", (longest_side, longest_side))
            picture = ImageOps.exif_transpose(picture)
            if crop is not None:
                picture = picture.crop(_pixels(crop, picture.size))
            picture = _rgb(picture)
            picture.thumbnail((longest_side, longest_side))
            return np.asarray(picture)
    except UserError:
        raise
    except Image.DecompressionBombError:  # Pillow's own limit, twice its MAX_IMAGE_PIXELS
        raise UserError(f"the picture has far more than {max_pixels:,} pixels") from None
    except OSError as error:
        if error.errno:  # the file, not its content
            raise UserError(f"the file cannot be read ({error.strerror})") from None
        raise UserError(_unreadable()) from None
    except Exception:  # decoders meet damaged files with errors of every kind
        raise UserError(_unreadable()) from None


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I") or picture.mode == "F":  # 16 bits: keep the upper eight
        values = np.asarray(picture, np.float64)
        scale = 255 / (65535 if picture.mode.startswith("I") else max(values.max(), 1e-12))
        picture = Image.fromarray(np.clip(values * scale, 0, 255).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture.convert("RGB")


def _pixels(crop: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    left, top, right, bottom = crop
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise UserError(
            f"crop={','.join(f'{c:g}' for c in crop)} is no part of a picture: give "
            "left,top,right,bottom in 0..1 with left < right and top < bottom"
        )
    width, height = size
    x, y = min(int(left * width), width - 1), min(int(top * height), height - 1)
    return x, y, max(x + 1, round(right * width)), max(y + 1, round(bottom * height))


def _unreadable() -> str:
    return f"this is no picture that can be read: give {', '.join(FORMATS)}, undamaged"
