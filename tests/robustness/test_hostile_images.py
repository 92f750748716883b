"""Every damaged image is kept or named; no file starts a program, hangs, or takes all memory."""

import os
import stat

import numpy as np
import PIL
import pytest
import tensorflow as tf

from tests.helpers.corrupt_images import (
    corrupt_images,
    jpeg_with_scans,
    raw_tiff,
    tiff_with_tile,
)
from tests.helpers.odd_images import ODD_IMAGES, encode, make_scene
from universal_embedding.datasets.image_files import (
    CorruptImageError,
    read_image,
    read_image_bytes,
    to_tf_decodable,
)
from universal_embedding.datasets.image_limits import count_jpeg_scans
from universal_embedding.datasets.image_listing import list_image_files
from universal_embedding.errors import printable


def test_decoders_are_those_without_known_holes():
    assert int(PIL.__version__.split(".")[0]) >= 13  # and Beam's tests pass with it


def try_all(count, seed):
    """Numbers of images that were kept and that were named."""
    kept = named = 0
    for name, data in corrupt_images(count, seed):
        try:
            encoded = to_tf_decodable(data)
        except CorruptImageError as error:
            assert "\n" not in str(error), name
            with pytest.raises(CorruptImageError):
                read_image(data)
            named += 1
            continue
        pixels = tf.io.decode_image(encoded, channels=3, expand_animations=False).numpy()
        np.testing.assert_array_equal(pixels, read_image(data), name)
        kept += 1
    return kept, named


def test_every_corrupt_image_is_kept_or_named():
    kept, named = try_all(400, seed=1)
    assert kept + named == 400 and kept > 20 and named > 100


@pytest.mark.robustness
def test_10000_corrupt_images_are_kept_or_named():
    kept, named = try_all(10_000, seed=0)
    print(f"10,000 corrupt images: {kept} kept, {named} named")
    assert kept + named == 10_000


def test_gif_cut_between_two_frames_is_named():
    data = ODD_IMAGES["animated gif"]
    for end in range(1, len(data)):
        try:
            read_image(data[:end])
        except CorruptImageError:
            continue


@pytest.mark.parametrize("head", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"8BPS"])
def test_no_image_starts_a_program(head, tmp_path, monkeypatch):
    ghostscript = tmp_path / "bin" / "gs"
    ghostscript.parent.mkdir()
    ghostscript.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    ghostscript.chmod(ghostscript.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{ghostscript.parent}:{os.environ['PATH']}")
    (tmp_path / "photo.jpg").write_bytes(head + b"showpage\n%%EOF\n" * 20)
    for read in (
        lambda: read_image(tmp_path / "photo.jpg"),
        lambda: read_image_bytes(tmp_path, "photo.jpg"),
    ):
        with pytest.raises(CorruptImageError, match="supported formats"):
            read()
    assert not (tmp_path / "started").exists()


def test_scans_of_a_jpeg_are_counted_and_bounded():
    assert count_jpeg_scans(encode(make_scene(), "JPEG")) == 1
    progressive = encode(make_scene(), "JPEG", progressive=True)
    assert 5 < count_jpeg_scans(progressive) < 13
    # Bytes behind the image, such as a film, may look like scans.
    assert count_jpeg_scans(progressive + b"\xff\xda\x00\x08" * 500) < 13
    read_image(jpeg_with_scans(50))
    with pytest.raises(CorruptImageError, match="more than 100 scans"):
        read_image(jpeg_with_scans(20_000))


def test_tile_of_a_tiff_counts_as_its_size():
    with pytest.raises(CorruptImageError, match="26000 x 26000 pixels"):
        read_image(tiff_with_tile(26_000))


def test_rows_that_a_tiff_does_not_hold_are_not_black():
    assert read_image(raw_tiff(40, 40)).min() == 200
    with pytest.raises(CorruptImageError):
        read_image(raw_tiff(5000, 40))


def test_sides_beyond_tensorflow_are_refused():
    flipped = encode(make_scene().resize((1, 10)), "TIFF").replace(b"\x01\x01\x04\x00\x01", b"\x01")
    del flipped
    with pytest.raises(CorruptImageError, match="a side may have at most"):
        read_image(encode(make_scene().resize((1, 70_000)), "PNG"))


def test_pipes_devices_and_loops_are_named_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    for name in ("pipe.jpg", "loop.jpg", "zero.jpg"):
        with pytest.raises(CorruptImageError):
            read_image(tmp_path / name)
    listing = list_image_files(tmp_path)
    assert set(listing.names) | set(listing.unusable) <= {"pipe.jpg", "loop.jpg", "zero.jpg"}


NAMES = ("ok\nforged.jpg", "a\tb.jpg", "x\x1b]0;owned\x07.jpg", "u\u2028v.jpg", "caf\udce9.jpg")


def test_names_that_cannot_be_stored_are_named_and_the_rest_is_kept(tmp_path):
    good = encode(make_scene(), "PNG")
    for name in ("good.png", *NAMES):
        (tmp_path / name).write_bytes(good)
    for folder in (".trash", "a"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "b.png").write_bytes(good)
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    listing = list_image_files(tmp_path)
    assert listing.names == ["a/b.png", "gone.png", "good.png"]
    assert set(listing.unusable) == {printable(name) for name in NAMES}
    assert all(printable(name) == name for name in listing.unusable)
    for name in NAMES:
        with pytest.raises(CorruptImageError, match="rename the file"):
            read_image_bytes(tmp_path, name)
    with pytest.raises(CorruptImageError, match="missing"):
        read_image_bytes(tmp_path, "gone.png")
