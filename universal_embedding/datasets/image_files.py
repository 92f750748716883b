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
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps

from universal_embedding.errors import UserError

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # as Pillow names them
PASSTHROUGH_FORMATS = ("BMP", "GIF", "JPEG", "MPO", "PNG")  # MPO: a camera's JPEG with a preview
MAX_PIXELS = 50_000_000  # limit for images of unknown origin, such as uploads

Box = tuple[float, float, float, float]
"""(left, top, right, bottom) in 0..1 of the width and height."""

_END_MARKERS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}  # Pillow does not notice when these miss
_PNG_EXIF_MARKERS = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")

# Remarks on odd metadata. Not `warnings.catch_warnings`, which is not safe in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")


class CorruptImageError(UserError):
    """An image is missing, damaged or too large; callers add the file's name to the message."""


def read_image(
    source: str | os.PathLike | bytes | Image.Image | np.ndarray,
    crop: Box | None = None,
    max_pixels: int | None = None,
) -> np.ndarray:
    """Decodes an image by the rules of this module.

    Args:
        source: A file, its bytes, a Pillow image, or a uint8 array `[H, W]`, `[H, W, 3]` or
            `[H, W, 4]`. A Pillow image that was opened but not decoded yet is read from its file;
            else its pixels are taken as they are.
        crop: The part to return; None for all of it.
        max_pixels: Width x height above which an image is refused. Files are checked by their
            header, before anything is decoded.

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
        data = source if isinstance(source, bytes) else _read_file(Path(source))
        pixels, _ = _decode_file(data, max_pixels)
    return pixels if crop is None else _crop(pixels, crop)


def read_image_bytes(root: Path, name: str) -> bytes:
    """Reads `root/name` as bytes that TensorFlow decodes to `read_image` of that file.

    Raises:
        CorruptImageError: The file is missing or damaged.
    """
    path = root / name
    if not name.isascii() and not path.exists():
        path = root / unescape_path(name)
    return to_tf_decodable(_read_file(path))


def to_tf_decodable(data: bytes) -> bytes:
    """Returns bytes that `tf.io.decode_image(..., channels=3)` decodes to `read_image(data)`.

    These are `data` itself wherever possible.

    Raises:
        CorruptImageError: Neither TensorFlow nor Pillow can decode `data`.
    """
    pixels, encoded = _decode_file(data)
    if encoded is None:
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "PNG")
        encoded = out.getvalue()
    return encoded


def unescape_path(name: str) -> str:
    """The file name that some unpackers write: `#Uxxxx` for each character beyond ASCII."""
    return "".join(c if c.isascii() else f"#U{ord(c):04x}" for c in name)


def list_image_files(folder: Path) -> tuple[list[str], int]:
    """Lists the images under `folder` by suffix, and counts the other files.

    Returns:
        Sorted names relative to `folder`, separated by `/`, and the number of files passed over:
        other suffixes, hidden files, and links that lead out of the folder.

    Raises:
        UserError: `folder` is not a directory.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a directory; name the directory of the images")
    root, names, num_other_files = folder.resolve(), [], 0
    for directory, _, files in os.walk(root):
        for file in files:
            path = Path(directory, file)
            is_image = path.suffix.lower() in IMAGE_SUFFIXES and not file.startswith(".")
            if is_image and path.resolve().is_relative_to(root):
                names.append(path.relative_to(root).as_posix())
            else:
                num_other_files += 1
    return sorted(names), num_other_files


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise CorruptImageError("the file is missing") from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise CorruptImageError(f"cannot read the file: {reason}") from None


def _decode_file(data: bytes, max_pixels: int | None = None) -> tuple[np.ndarray, bytes | None]:
    """Pixels of a file, and bytes that TensorFlow decodes to them; None if a PNG is to be made."""
    if not data:
        raise CorruptImageError("the file is empty")
    with _reporting_corruption(), Image.open(io.BytesIO(data), "r", IMAGE_FORMATS) as image:
        _check_size(image.size, max_pixels)
        pixels = _decode_unchanged(image, data)
        if pixels is not None:
            return pixels, data
        if _END_MARKERS.get(image.format or "", b"") not in data[-4096:]:
            raise CorruptImageError("the file is truncated")
        rgb = _to_rgb(ImageOps.exif_transpose(image))
        if image.has_transparency_data or not _is_lossy(image, data):
            return np.asarray(rgb), None
        out = io.BytesIO()
        rgb.save(out, "JPEG", quality=95, subsampling=0)
        pixels = _tf_decode(out.getvalue())
        assert pixels is not None  # TensorFlow decodes every JPEG that Pillow writes
        return pixels, out.getvalue()


def _decode_unchanged(image: Image.Image, data: bytes) -> np.ndarray | None:
    """Pixels that TensorFlow decodes `data` to; None if it refuses or they break a rule."""
    if image.format not in PASSTHROUGH_FORMATS or not _is_upright(image, data):
        return None
    if image.format in ("JPEG", "MPO"):
        return _tf_decode(data) if image.mode in ("RGB", "L") else None
    if getattr(image, "n_frames", 1) != 1:
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
    except tf.errors.InvalidArgumentError:
        return None


def _read_pillow_image(image: Image.Image, max_pixels: int | None) -> np.ndarray:
    data = _undecoded_bytes(image)
    if data is not None:
        return _decode_file(data, max_pixels)[0]
    with _reporting_corruption():
        _check_size(image.size, max_pixels)
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
    _check_size((array.shape[1], array.shape[0]), max_pixels)
    return array if array.shape[2:] == (3,) else np.asarray(_to_rgb(Image.fromarray(array)))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits: Pillow would clip, not scale
        values = np.clip(np.asarray(image), 0, 65535).astype(np.uint16)
        image = Image.fromarray((values >> 8).astype(np.uint8))
    elif image.mode == "F":
        floats = np.nan_to_num(np.asarray(image, np.float64))
        scale = 255 / max(floats.max(), 1e-12)
        image = Image.fromarray(np.clip(floats * scale, 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _check_size(size: tuple[int, int], max_pixels: int | None) -> None:
    width, height = size
    if max_pixels is not None and width * height > max_pixels:
        raise CorruptImageError(
            f"the image has {width} x {height} pixels, more than {max_pixels:,}; use a smaller one"
        )


def _crop(pixels: np.ndarray, crop: Box) -> np.ndarray:
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
    except (UserError, MemoryError):
        raise
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
