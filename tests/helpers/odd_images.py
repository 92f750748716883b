"""Encoded images of every kind that the image reader has a rule for."""

import io

import numpy as np
import tensorflow as tf
from PIL import Image

HEIGHT, WIDTH = 24, 36


def make_scene() -> Image.Image:
    """A smooth RGB image without symmetry, so that a lossy file still shows its orientation."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    pixels = np.stack([x * 7, y * 10, 255 - x * 3 - y * 4], -1)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def encode(image: Image.Image, file_format: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, file_format, **options)
    return out.getvalue()


def half_transparent(mode: str = "RGBA") -> Image.Image:
    """The scene, from transparent at the left to opaque at the right."""
    image = make_scene().convert(mode)
    ramp = np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))
    image.putalpha(Image.fromarray(ramp))
    return image


def _rotated_jpeg(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(make_scene(), "JPEG", exif=exif)


def _gray_16_bit() -> Image.Image:
    values = np.linspace(0, 65535, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
    return Image.fromarray(values.astype(np.uint16))


def _color_16_bit_png() -> bytes:
    return tf.io.encode_png(np.asarray(make_scene()).astype(np.uint16) * 257).numpy()


_PALETTE = make_scene().quantize(16)
_FRAMES = [make_scene(), make_scene().transpose(Image.Transpose.ROTATE_180)]

ODD_IMAGES = {
    "jpeg": encode(make_scene(), "JPEG"),
    "progressive jpeg": encode(make_scene(), "JPEG", progressive=True),
    "4:4:4 jpeg": encode(make_scene(), "JPEG", subsampling=0),
    "gray jpeg": encode(make_scene().convert("L"), "JPEG"),
    "cmyk jpeg": encode(make_scene().convert("CMYK"), "JPEG"),
    "rotated jpeg": _rotated_jpeg(6),
    "mirrored jpeg": _rotated_jpeg(5),
    "mpo": encode(_FRAMES[0], "MPO", save_all=True, append_images=_FRAMES[1:]),
    "png": encode(make_scene(), "PNG"),
    "gray png": encode(make_scene().convert("L"), "PNG"),
    "1-bit png": encode(make_scene().convert("1"), "PNG"),
    "opaque rgba png": encode(make_scene().convert("RGBA"), "PNG"),
    "rgba png": encode(half_transparent(), "PNG"),
    "la png": encode(half_transparent("L"), "PNG"),
    "palette png": encode(_PALETTE, "PNG"),
    "2-bit palette png": encode(make_scene().quantize(4), "PNG", bits=2),
    "transparent palette png": encode(_PALETTE, "PNG", transparency=5),
    "alpha palette png": encode(_PALETTE, "PNG", transparency=bytes(range(0, 256, 16))),
    "color key png": encode(make_scene(), "PNG", transparency=(0, 0, 255)),
    "16-bit gray png": encode(_gray_16_bit(), "PNG"),
    "16-bit color png": _color_16_bit_png(),
    "rotated png": encode(
        make_scene(), "PNG", exif=Image.open(io.BytesIO(_rotated_jpeg(8))).getexif()
    ),
    "animated png": encode(_FRAMES[0], "PNG", save_all=True, append_images=_FRAMES[1:]),
    "gif": encode(_PALETTE, "GIF"),
    "transparent gif": encode(_PALETTE, "GIF", transparency=5),
    "animated gif": encode(_FRAMES[0], "GIF", save_all=True, append_images=_FRAMES[1:]),
    "webp": encode(make_scene(), "WEBP"),
    "lossless webp": encode(make_scene(), "WEBP", lossless=True),
    "rgba webp": encode(half_transparent(), "WEBP"),
    "animated webp": encode(_FRAMES[0], "WEBP", save_all=True, append_images=_FRAMES[1:]),
    "bmp": encode(make_scene(), "BMP"),
    "palette bmp": encode(_PALETTE, "BMP"),
    "1-bit bmp": encode(make_scene().convert("1"), "BMP"),
    "tiff": encode(make_scene(), "TIFF"),
    "rgba tiff": encode(half_transparent(), "TIFF"),
    "16-bit gray tiff": encode(_gray_16_bit(), "TIFF"),
    "1-bit tiff": encode(make_scene().convert("1"), "TIFF"),
    "cmyk tiff": encode(make_scene().convert("CMYK"), "TIFF"),
    "float tiff": encode(_gray_16_bit().convert("F"), "TIFF"),
    "ppm": encode(make_scene(), "PPM"),
}
