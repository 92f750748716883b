"""A seeded stream of image files that are damaged, mislabeled, or declare more than they hold."""

import io
import struct

import numpy as np
from PIL import Image

from tests.helpers.odd_images import ODD_IMAGES, encode, make_scene

SUFFIXES = (".jpg", ".png", ".gif", ".bmp", ".webp", ".tif", ".jpeg", ".tiff")


def corrupt_images(count, seed=0):
    """Yields `count` pairs of a file name and bytes; about one in twenty is a whole image."""
    rng = np.random.default_rng(seed)
    kinds = sorted(ODD_IMAGES)
    attacks = (_truncate, _flip, _zero, _splice, _resize_header, lambda data, _: data)
    weights = np.array([0.3, 0.3, 0.15, 0.1, 0.1, 0.05])
    for i in range(count):
        data = ODD_IMAGES[kinds[rng.integers(len(kinds))]]
        attack = attacks[rng.choice(len(attacks), p=weights)]
        yield f"{i:05d}{SUFFIXES[rng.integers(len(SUFFIXES))]}", attack(data, rng)


def _truncate(data, rng):
    return data[: rng.integers(len(data))]


def _flip(data, rng):
    out = bytearray(data)
    for _ in range(rng.integers(1, 9)):
        out[rng.integers(len(out))] ^= 1 << rng.integers(8)
    return bytes(out)


def _zero(data, rng):
    start, length = rng.integers(len(data)), rng.integers(1, 64)
    return data[:start] + bytes(length) + data[start + length :]


def _splice(data, rng):
    kinds = sorted(ODD_IMAGES)
    other = ODD_IMAGES[kinds[rng.integers(len(kinds))]]
    return data[: rng.integers(len(data))] + other[rng.integers(len(other)) :]


def _resize_header(data, rng):
    """Overwrites four bytes of the header, where most formats keep their size."""
    place = rng.integers(min(64, len(data)))
    value = int(rng.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 40_000]))
    return data[:place] + struct.pack(rng.choice([">I", "<I"]), value) + data[place + 4 :]


def jpeg_with_scans(num_scans, side=64):
    """A progressive JPEG whose last scan is repeated."""
    data = encode(make_scene().resize((side, side)), "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    return data[:start] + data[start:-2] * num_scans + data[-2:]


def tiff_with_tile(side):
    """A TIFF of one pixel in a tile of `side` x `side`."""
    out = io.BytesIO()
    Image.new("L", (1, 1)).save(out, "TIFF", compression="tiff_deflate")
    entries = {256: 1, 257: 1, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side, 324: 8, 325: 8}
    ifd = struct.pack("<H", len(entries))
    for tag, value in entries.items():
        ifd += struct.pack("<HHII", tag, 4, 1, value)
    return b"II*\x00" + struct.pack("<I", 16) + bytes(8) + ifd + bytes(4)


def raw_tiff(height, stored_rows):
    """A TIFF without compression that declares more rows than it holds."""
    data = encode(Image.new("L", (100, stored_rows), 200), "TIFF")
    with Image.open(io.BytesIO(data)) as image:
        tags = dict(image.tag_v2)
    assert tags[257] == stored_rows
    for tag in (257, 278):  # ImageLength, RowsPerStrip
        for kind in (3, 4):
            old = struct.pack("<HHII", tag, kind, 1, stored_rows)
            data = data.replace(old, struct.pack("<HHII", tag, kind, 1, height))
    return data
