"""Odd pictures become upright RGB; ordinary ones keep their bytes; broken ones are told apart."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from universal_embedding.datasets import pictures

HEIGHT, WIDTH = 24, 36


def scene() -> Image.Image:
    """Smooth, and without any symmetry, so that a lossy file still shows its orientation."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    pixels = np.stack([x * 7, y * 10, 255 - x * 3 - y * 4], -1)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(data: bytes) -> np.ndarray:
    return tf.io.decode_image(data, channels=3, expand_animations=False).numpy()


def assert_shows_scene(data: bytes, tolerance: float = 6):
    found, expected = decoded(data).astype(float), np.asarray(scene(), float)
    assert found.shape == expected.shape
    assert np.abs(found - expected).mean() < tolerance


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8))
PLAIN = {
    "jpeg": encoded(scene(), "JPEG", quality=95),
    "progressive jpeg": encoded(scene(), "JPEG", progressive=True),
    "grey jpeg": encoded(scene().convert("L"), "JPEG"),
    "png": encoded(scene(), "PNG"),
    "png with alpha": encoded(scene().convert("RGBA"), "PNG"),
    "png with palette": encoded(scene().quantize(64), "PNG"),
    "bmp": encoded(scene(), "BMP"),
    "gif": encoded(scene().quantize(64), "GIF"),
}


@pytest.mark.parametrize("kind", PLAIN)
def test_ordinary_bytes_are_kept(kind):
    assert pictures.normalise(PLAIN[kind]) is PLAIN[kind]


def test_wrong_extension_keeps_bytes(tmp_path):
    (tmp_path / "really-a-png.jpg").write_bytes(PLAIN["png"])
    assert pictures.load(tmp_path, "really-a-png.jpg") == PLAIN["png"]


@pytest.mark.parametrize("kind, becomes", [("WEBP", "JPEG"), ("TIFF", "PNG"), ("PPM", "PNG")])
def test_formats_not_every_tensorflow_has(kind, becomes):
    data = pictures.normalise(encoded(scene(), kind))
    assert Image.open(io.BytesIO(data)).format == becomes
    assert_shows_scene(data)


def test_cmyk_jpeg():
    assert_shows_scene(pictures.normalise(encoded(scene().convert("CMYK"), "JPEG", quality=95)), 9)


TURNED_AS_STORED = {  # how a camera stored the upright scene, by its orientation tag
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", TURNED_AS_STORED)
def test_rotated_jpeg_is_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = scene().transpose(TURNED_AS_STORED[orientation])
    data = pictures.normalise(encoded(stored, "JPEG", quality=95, subsampling=0, exif=exif))
    assert_shows_scene(data)
    assert Image.open(io.BytesIO(data)).getexif().get(0x0112, 1) == 1


def test_upright_exif_keeps_bytes():
    exif = Image.Exif()
    exif[0x0112] = 1
    data = encoded(scene(), "JPEG", exif=exif)
    assert pictures.normalise(data) is data


def test_16_bit_grey_png_is_scaled_not_clipped():
    grey = np.linspace(0, 65535, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint16)
    found = decoded(pictures.normalise(encoded(Image.fromarray(grey), "PNG")))
    np.testing.assert_array_equal(found, np.repeat((grey >> 8)[..., None], 3, -1))


def test_16_bit_colour_png():
    pixels = (np.asarray(scene()).astype(np.uint16) * 257)[..., :3]
    data = tf.io.encode_png(pixels).numpy()
    assert data[24] == 16
    normalised = pictures.normalise(data)
    assert normalised[24] == 8
    np.testing.assert_array_equal(decoded(normalised), np.asarray(scene()))


def test_animated_gif_gives_its_first_frame():
    frames = [scene().quantize(64), Image.new("P", (WIDTH, HEIGHT))]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    normalised = pictures.normalise(data)
    assert normalised != data
    assert_shows_scene(normalised, 20)
    assert tf.io.decode_image(normalised).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP"])
@pytest.mark.parametrize("share", [0.5, 0.8, 0.99])
def test_truncated(kind, share):
    data = encoded(NOISE.quantize(64) if kind == "GIF" else NOISE, kind)
    with pytest.raises(pictures.BrokenPictureError):
        pictures.normalise(data[: int(share * len(data))])


@pytest.mark.parametrize("data", [b"", b"<html>not found</html>", bytes(1000), b"\xff\xd8\xff\xe0"])
def test_no_picture(data):
    with pytest.raises(pictures.BrokenPictureError):
        pictures.normalise(data)


def test_missing_and_folder(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    for name in ("nothing.jpg", "folder.jpg"):
        with pytest.raises(pictures.BrokenPictureError):
            pictures.load(tmp_path, name)


def test_escaped_names(tmp_path):
    name = "train/农夫山泉é/可乐_1.jpg"
    escaped = "train/#U519c#U592b#U5c71#U6cc9#U00e9/#U53ef#U4e50_1.jpg"
    assert pictures.escaped(name) == escaped
    (tmp_path / escaped).parent.mkdir(parents=True)
    (tmp_path / escaped).write_bytes(PLAIN["jpeg"])
    assert pictures.load(tmp_path, name) == PLAIN["jpeg"]
