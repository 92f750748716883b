"""Limits of an image file, checked before it is decoded; a small file may cost hours or gigabytes.

Pillow and TensorFlow allocate what a header declares and decode every scan of a progressive JPEG,
so the header is compared with these limits, and with the length of the file, first.
"""

import os
import re
import stat

from PIL import Image, TiffImagePlugin, TiffTags

from universal_embedding.errors import UserError
from universal_embedding.files import as_path, is_remote

MAX_FILE_BYTES = 512 << 20
MAX_PIXELS = 100_000_000
MAX_SIDE = 65_500  # libjpeg's; TensorFlow refuses sides beyond 1,000,000
MAX_SCANS = 100  # of a progressive JPEG; encoders write 6 to 12

# The first bytes of each format that is read; other files are refused without a decoder.
_SIGNATURES = (b"\xff\xd8", b"\x89PNG", b"GIF8", b"BM", b"RIFF", b"II", b"MM", b"P")
_NEXT_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")  # neither stuffing nor a restart
_END_OF_IMAGE, _START_OF_SCAN = 0xD9, 0xDA
_START_OF_SCAN_BYTES = bytes([0xFF, _START_OF_SCAN])
_WITHOUT_COMPRESSION, _YCBCR = 1, 6


class CorruptImageError(UserError):
    """An image is missing, damaged or too large; callers add the file's name to the message."""


def read_file(path: str | os.PathLike) -> bytes:
    """Reads a regular file of at most `MAX_FILE_BYTES`.

    Raises:
        CorruptImageError: The file is missing, unreadable, too large, or a folder, pipe or device.
    """
    try:
        if is_remote(path):
            with as_path(path).open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
        else:
            data = _read_local_file(path)
    except FileNotFoundError:
        raise CorruptImageError("the file is missing") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise CorruptImageError(f"cannot read the file: {reason}") from None
    if len(data) > MAX_FILE_BYTES:
        raise CorruptImageError(f"the file is larger than {MAX_FILE_BYTES >> 20} MB")
    return data


def _read_local_file(path: str | os.PathLike) -> bytes:
    # Without O_NONBLOCK, opening a named pipe would wait for its writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise CorruptImageError("this is not a regular file")
        return file.read(MAX_FILE_BYTES + 1)


def starts_as_image(data: bytes | bytearray) -> bool:
    """Whether the first four bytes or more are those of a format that is read."""
    return data.startswith(_SIGNATURES)


def check_size(size: tuple[int, int], max_pixels: int | None) -> None:
    """Raises CorruptImageError if an image of `(width, height)` is too large to decode."""
    width, height = size
    if max_pixels is not None and width * height > max_pixels:
        raise CorruptImageError(
            f"the image has {width} x {height} pixels, more than {max_pixels:,}; use a smaller one"
        )
    if max(size) > MAX_SIDE:
        raise CorruptImageError(
            f"the image has {width} x {height} pixels; a side may have at most {MAX_SIDE:,}"
        )


def check_limits(image: Image.Image, data: bytes, max_pixels: int | None) -> None:
    """Checks an image that Pillow opened and did not decode yet.

    Args:
        image: The opened image.
        data: Its file.
        max_pixels: Width x height above which an image is refused; None: no limit.

    Raises:
        CorruptImageError: It is too large, has too many scans, or less data than it declares.
    """
    check_size(image.size, max_pixels)
    # Counting the two bytes is seven times as fast as looking at every marker.
    is_suspect = image.format in ("JPEG", "MPO") and data.count(_START_OF_SCAN_BYTES) > MAX_SCANS
    if is_suspect and count_jpeg_scans(data) > MAX_SCANS:
        raise CorruptImageError(f"the JPEG has more than {MAX_SCANS} scans; save it again")
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _check_tiff(image, max_pixels)


def count_jpeg_scans(data: bytes) -> int:
    """Counts the scans of the first image in a JPEG file, at most `MAX_SCANS + 1`."""
    scans, position = 0, 2
    while scans <= MAX_SCANS:
        found = _NEXT_MARKER.search(data, position)
        if found is None or data[found.end() - 1] == _END_OF_IMAGE:
            break
        scans += data[found.end() - 1] == _START_OF_SCAN
        position = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    return scans


def _check_tiff(image: TiffImagePlugin.TiffImageFile, max_pixels: int | None) -> None:
    """A tile is decoded whole, however small the image; rows without data would be black."""
    (width, height), tags = image.size, image.tag_v2
    tile = tags.get(TiffImagePlugin.TILEWIDTH, 0), tags.get(TiffImagePlugin.TILELENGTH, 0)
    if all(tile):
        check_size(tile, max_pixels)
        return
    counts = tags.get(TiffImagePlugin.STRIPBYTECOUNTS, ())
    counts = counts if isinstance(counts, tuple) else (counts,)
    rows = min(tags.get(TiffImagePlugin.ROWSPERSTRIP, height), height)
    photometric = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION)
    too_short = len(counts) < -(-height // rows)
    if tags.get(TiffImagePlugin.COMPRESSION, 1) == _WITHOUT_COMPRESSION and photometric != _YCBCR:
        bits = tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
        bits_per_pixel = sum(bits) if len(bits) > 1 else bits[0] * tags.get(_SAMPLES, 1)
        too_short |= sum(counts) * 8 < width * height * bits_per_pixel
    if too_short:
        raise CorruptImageError("the file is truncated")


_SAMPLES = next(tag for tag, info in TiffTags.TAGS_V2.items() if info.name == "SamplesPerPixel")
