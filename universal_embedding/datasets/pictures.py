"""Encoded pictures that TensorFlow decodes upright and in RGB."""

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

KEPT_FORMATS = {"JPEG", "MPO", "PNG", "BMP", "GIF"}  # MPO: a camera's JPEG with a second picture
KEPT_MODES = {"RGB", "RGBA", "L", "LA", "P", "1"}
LOSSY_FORMATS = {"JPEG", "MPO", "WEBP"}
ORIENTATION = 0x0112
END_MARKS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}  # Pillow does not miss them


class BrokenPictureError(Exception):
    """The file is missing, truncated or no picture; the message says which."""


def load(root: Path, name: str) -> bytes:
    """Reads `root/name`, decodes it once, and returns bytes that TensorFlow decodes as they should.

    These are the file's own bytes unless TensorFlow would refuse or misread them: CMYK or rotated
    JPEG, 16-bit PNG, animated GIF, WebP, TIFF and the like are encoded again, upright and in RGB,
    as JPEG (if the file was lossy) or PNG.

    Raises:
        BrokenPictureError: The file is missing, or neither TensorFlow nor Pillow can decode it.
    """
    path = root / name
    if not name.isascii() and not path.exists():
        path = root / escaped(name)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise BrokenPictureError("the file is missing") from None
    except OSError as error:
        raise BrokenPictureError(error.strerror or str(error)) from None
    return normalise(data)


def escaped(name: str) -> str:
    """The name that some unpackers give a file: `#Uxxxx` for each character beyond ASCII."""
    return "".join(c if c.isascii() else f"#U{ord(c):04x}" for c in name)


def normalise(data: bytes) -> bytes:
    """The picture as TensorFlow decodes it upright and in RGB; see `load`."""
    if not data:
        raise BrokenPictureError("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata
            with Image.open(io.BytesIO(data)) as picture:
                if _is_plain(picture, data) and _tensorflow_decodes(data):
                    return data
                if END_MARKS.get(picture.format, b"") not in data[-4096:]:
                    raise BrokenPictureError("it is truncated")
                return _encode(picture)
    except Image.UnidentifiedImageError:
        raise BrokenPictureError("it is no picture of a known format") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BrokenPictureError(str(error) or type(error).__name__) from None


def _is_plain(picture: Image.Image, data: bytes) -> bool:
    return (
        picture.format in KEPT_FORMATS
        and picture.mode in KEPT_MODES
        and (picture.format == "MPO" or getattr(picture, "n_frames", 1) == 1)
        and _is_upright(picture, data)
        and not (picture.format == "PNG" and data[24] == 16)  # the header's bit depth
    )


def _is_upright(picture: Image.Image, data: bytes) -> bool:
    if picture.format == "PNG" and b"eXIf" not in data:
        return True  # asking Pillow would decode the picture
    return picture.getexif().get(ORIENTATION, 1) == 1


def _tensorflow_decodes(data: bytes) -> bool:
    import tensorflow as tf  # 0.3 GB, which a process that leaves the work to others is spared

    try:
        tf.io.decode_image(data, channels=3, expand_animations=False)
    except tf.errors.InvalidArgumentError:
        return False
    return True


def _encode(picture: Image.Image) -> bytes:
    lossy = picture.format in LOSSY_FORMATS
    upright = _to_rgb(ImageOps.exif_transpose(picture))
    buffer = io.BytesIO()
    if lossy:
        upright.save(buffer, "JPEG", quality=95, subsampling=0)
    else:
        upright.save(buffer, "PNG")
    return buffer.getvalue()


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):  # 16 bits a channel: Pillow would clip, not scale
        values = np.clip(np.asarray(picture), 0, 65535).astype(np.uint16)
        picture = Image.fromarray((values >> 8).astype(np.uint8))
    return picture.convert("RGB")
