"""The image reader of the whole package: preparing, encoding, searching and reporting use it.

Every image becomes `[H, W, 3]` uint8 RGB by these rules:

- Alpha, a transparent palette entry or a color key is composited on white.
- The EXIF orientation is applied.
- 16 bits a channel keep the upper 8; floats are scaled so that their maximum is 255.
- CMYK and every other color space are converted to RGB, without color profiles.
- A palette is resolved.
- An animation gives its first frame.

Files are decoded by TensorFlow, as in training and serving: its JPEG decoder uses the fast integer
DCT, which differs from Pillow's by a few gray levels. A file that TensorFlow cannot decode to these
pixels is encoded again, as PNG, or as JPEG of quality 95 if it is lossy and has no transparency.
`read_image` decodes that encoding too, so for every file it equals decoding `to_tf_decodable`.
"""

import contextlib
import io
import os
import warnings
from collections.abc import Iterator

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps

from universal_embedding.datasets.image_limits import (
    MAX_PIXELS,
    CorruptImageError,
    check_limits,
    check_size,
    read_file,
)
from universal_embedding.datasets.image_listing import name_problem
from universal_embedding.errors import UserError
from universal_embedding.files import as_path

IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # as Pillow names them
PASSTHROUGH_FORMATS = ("BMP", "GIF", "JPEG", "MPO", "PNG")  # MPO: a camera's JPEG with a preview

_BAND_PIXELS = 1 << 20

Box = tuple[float, float, float, float]
"""(left, top, right, bottom) in 0..1 of the width and height."""

_END_MARKERS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}  # Pillow does not notice when these miss
_PNG_EXIF_MARKERS = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")

# Remarks on odd metadata. Not `warnings.catch_warnings`, which is not safe in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")


def read_image(
    source: str | os.PathLike | bytes | Image.Image | np.ndarray,
    crop: Box | None = None,
    max_pixels: int | None = MAX_PIXELS,
) -> np.ndarray:
    """Decodes an image by the rules of this module.

    Args:
        source: A file, its bytes, a Pillow image, or a uint8 array `[H, W]`, `[H, W, 3]` or
            `[H, W, 4]`. A Pillow image that was opened but not decoded yet is read from its file;
            else its pixels are taken as they are.
        crop: The part to return; None for all of it.
        max_pixels: Width x height above which an image is refused; None: no limit. Files are
            checked by their header, before anything is decoded; see `image_limits`.

    Returns:
        `[H, W, 3]` uint8, RGB.

    Raises:
        CorruptImageError: The image is missing, damaged, or too large.
        UserError: The array or the crop is not valid.
    """
    if isinstance(source, np.ndarray):
        pixels = _read_array(source, max_pixels)
    elif isinstance(source, Image.Image):
        pixels = _read_pillow_image(source, max_pixels)
    else:
        data = source if isinstance(source, bytes) else read_file(as_path(source))
        pixels, _ = _decode_file(data, max_pixels)
    return crop_pixels(pixels, crop)


def read_image_size(data: bytes, max_pixels: int | None = MAX_PIXELS) -> tuple[int, int]:
    """Reads `(height, width)` from the header of an image file, before its orientation is applied.

    Raises:
        CorruptImageError: It has no such header, or exceeds the limits of `image_limits`.
    """
    with _reporting_corruption(), Image.open(io.BytesIO(data), "r", IMAGE_FORMATS) as image:
        check_limits(image, data, max_pixels)
        return image.height, image.width


def read_image_bytes(root: str | os.PathLike, name: str) -> bytes:
    """Reads `root/name` as bytes that TensorFlow decodes to `read_image` of that file.

    Raises:
        CorruptImageError: The file is missing or damaged.
    """
    return to_tf_decodable(read_image_file(root, name))


def read_image_file(root: str | os.PathLike, name: str) -> bytes:
    """Reads `root/name`, on any file system, whatever some unpackers made of the name.

    Raises:
        CorruptImageError: The file is missing or cannot be read.
    """
    problem = name_problem(name)
    if problem:
        raise CorruptImageError(problem)
    path = os.path.join(root, name)  # a tenth of the time of a path object
    if not name.isascii() and not as_path(path).exists():
        path = os.path.join(root, unescape_path(name))
    return read_file(path)


def to_tf_decodable(data: bytes, max_side: int | None = None) -> bytes:
    """Returns bytes that `tf.io.decode_image(..., channels=3)` decodes to `read_image(data)`.

    These are `data` itself wherever possible.

    Args:
        data: An image file.
        max_side: An image with a longer side is resized to it, with antialiasing, and encoded as
            JPEG of quality 95; None: no image is.

    Raises:
        CorruptImageError: Neither TensorFlow nor Pillow can decode `data`.
    """
    pixels, encoded = _decode_file(data)
    height, width, _ = pixels.shape
    if max_side is not None and max(height, width) > max_side:
        scale = max_side / max(height, width)
        size = max(1, round(scale * width)), max(1, round(scale * height))
        return _encode_jpeg(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
    if encoded is None:
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "PNG")
        encoded = out.getvalue()
    return encoded


def unescape_path(name: str) -> str:
    """The file name that some unpackers write: `#Uxxxx` for each character beyond ASCII."""
    return "".join(c if c.isascii() else f"#U{ord(c):04x}" for c in name)


def _decode_file(
    data: bytes, max_pixels: int | None = MAX_PIXELS
) -> tuple[np.ndarray, bytes | None]:
    """Pixels of a file, and bytes that TensorFlow decodes to them; None if a PNG is to be made."""
    if not data:
        raise CorruptImageError("the file is empty")
    with _reporting_corruption(), Image.open(io.BytesIO(data), "r", IMAGE_FORMATS) as image:
        check_limits(image, data, max_pixels)
        pixels = _decode_unchanged(image, data)
        if pixels is not None:
            return pixels, data
        if _END_MARKERS.get(image.format or "", b"") not in data[-4096:]:
            raise CorruptImageError("the file is truncated")
        rgb = _to_rgb(ImageOps.exif_transpose(image))
        if image.has_transparency_data or not _is_lossy(image, data):
            return np.asarray(rgb), None
        encoded = _encode_jpeg(rgb)
        pixels = _tf_decode(encoded)
        assert pixels is not None  # TensorFlow decodes every JPEG that Pillow writes
        return pixels, encoded


def _encode_jpeg(rgb: Image.Image) -> bytes:
    out = io.BytesIO()
    rgb.save(out, "JPEG", quality=95, subsampling=0)
    return out.getvalue()


def _decode_unchanged(image: Image.Image, data: bytes) -> np.ndarray | None:
    """Pixels that TensorFlow decodes `data` to; None if it refuses or they break a rule."""
    if image.format not in PASSTHROUGH_FORMATS or not _is_upright(image, data):
        return None
    if image.format in ("JPEG", "MPO"):
        return _tf_decode(data) if image.mode in ("RGB", "L") else None
    if getattr(image, "is_animated", False):  # `n_frames` would read all frames of a GIF
        return None
    if image.format == "PNG":
        if data[24] == 16:  # bit depth in the header
            return None
        if not image.has_transparency_data:
            return _tf_decode(data)
        rgba = _tf_decode(data, channels=4)
        return None if rgba is None or rgba[..., 3].min() < 255 else rgba[..., :3]
    # TensorFlow ignores some palettes of BMP, and transparency in GIF.
    pixels = _tf_decode(data)
    same = pixels is not None and np.array_equal(pixels, np.asarray(_to_rgb(image)))
    return pixels if same else None


def _is_upright(image: Image.Image, data: bytes) -> bool:
    if image.format == "PNG" and not any(marker in data for marker in _PNG_EXIF_MARKERS):
        return True  # asking Pillow would decode the image
    return image.getexif().get(ExifTags.Base.Orientation, 1) == 1


def _is_lossy(image: Image.Image, data: bytes) -> bool:
    return image.format in ("JPEG", "MPO") or (image.format == "WEBP" and b"VP8L" not in data)


def _tf_decode(data: bytes, channels: int = 3) -> np.ndarray | None:
    import tensorflow as tf  # 0.3 GB, which a process that leaves the work to others is spared

    try:
        return tf.io.decode_image(data, channels=channels, expand_animations=False).numpy()
    except tf.errors.OpError:
        return None


def _read_pillow_image(image: Image.Image, max_pixels: int | None) -> np.ndarray:
    data = _undecoded_bytes(image)
    if data is not None:
        return _decode_file(data, max_pixels)[0]
    with _reporting_corruption():
        check_size(image.size, max_pixels)
        return np.asarray(_to_rgb(ImageOps.exif_transpose(image)))


def _undecoded_bytes(image: Image.Image) -> bytes | None:
    """The file's bytes of an image that Pillow opened and did not decode yet, else None."""
    if not isinstance(image, ImageFile.ImageFile) or image.tell():
        return None
    file = image.fp
    # Pillow empties `tile` when it decodes; for WebP, it is empty before, and `fp` is replaced.
    if file is None or file.closed or not (image.tile or image.format == "WEBP"):
        return None
    position = file.tell()
    file.seek(0)
    data = file.read()
    file.seek(position)
    return data if image.tile or data[8:12] == b"WEBP" else None


def _read_array(array: np.ndarray, max_pixels: int | None) -> np.ndarray:
    valid = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not valid or not array.size:
        raise UserError(
            f"the image is an array of shape {array.shape} and dtype {array.dtype}; expected uint8 "
            "[H, W], [H, W, 3] or [H, W, 4]"
        )
    check_size((array.shape[1], array.shape[0]), max_pixels)
    return array if array.shape[2:] == (3,) else np.asarray(_to_rgb(Image.fromarray(array)))


def _to_rgb(image: Image.Image) -> Image.Image:
    """Converts in bands of rows: whole copies in RGBA or float would take four times the memory."""
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    width, height = image.size
    rows = max(1, _BAND_PIXELS // width)
    bands = [(0, top, width, min(top + rows, height)) for top in range(0, height, rows)]
    maximum = 0.0
    if image.mode == "F":
        maximum = max(float(_floats(image.crop(band)).max()) for band in bands)
    rgb = Image.new("RGB", image.size)
    for band in bands:
        rgb.paste(_band_to_rgb(image.crop(band), maximum), band)
    return rgb


def _band_to_rgb(image: Image.Image, maximum: float) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits: Pillow would clip, not scale
        values = np.clip(np.asarray(image), 0, 65535).astype(np.uint16)
        image = Image.fromarray((values >> 8).astype(np.uint8))
    elif image.mode == "F":
        scaled = _floats(image) * (255 / max(maximum, 1e-12))
        image = Image.fromarray(np.clip(scaled, 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _floats(image: Image.Image) -> np.ndarray:
    return np.nan_to_num(np.asarray(image, np.float64))


def crop_pixels(pixels: np.ndarray, crop: Box | None) -> np.ndarray:
    """A part of `[H, W, 3]`, at least one pixel; all of it for None.

    Raises:
        UserError: The crop is not a part of an image.
    """
    if crop is None:
        return pixels
    left, top, right, bottom = crop
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise UserError(
            f"crop={','.join(f'{c:g}' for c in crop)} is not a part of an image; expected "
            "left,top,right,bottom in 0..1 with left < right and top < bottom"
        )
    height, width, _ = pixels.shape
    x, y = min(int(left * width), width - 1), min(int(top * height), height - 1)
    return pixels[y : max(y + 1, round(bottom * height)), x : max(x + 1, round(right * width))]


@contextlib.contextmanager
def _reporting_corruption() -> Iterator[None]:
    """Raises `CorruptImageError` for whatever a decoder raises."""
    try:
        yield
    except UserError:
        raise
    except MemoryError:
        raise CorruptImageError("the image needs more memory than there is") from None
    except Image.DecompressionBombError:  # twice Pillow's MAX_IMAGE_PIXELS
        raise CorruptImageError("the image has more pixels than Pillow decodes") from None
    except Image.UnidentifiedImageError:
        raise CorruptImageError(
            f"cannot decode image; supported formats: {', '.join(IMAGE_FORMATS)}"
        ) from None
    except Exception as error:  # damaged files cause errors of every kind
        reason = " ".join(str(error).split()) or type(error).__name__
        if "truncated" in reason.lower():
            raise CorruptImageError("the file is truncated") from None
        raise CorruptImageError(f"cannot decode image: {reason}") from None
