"""A folder of pictures, each named by its id, as the competition gives them."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tensorflow as tf

from universal_embedding.datasets import pictures
from universal_embedding.errors import UserError

SUFFIXES = {".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff"}
AHEAD = 64  # pictures decoded before they are wanted


def find(folder: str | Path) -> dict[str, Path]:
    """The pictures below `folder` by id, which is the file's name without suffix; sorted.

    Raises:
        UserError: There are none, or two have one id.
    """
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        if path.suffix.lower() in SUFFIXES:
            if path.stem in found:
                raise UserError(f"{path} and {found[path.stem]} have one id: rename one")
            found[path.stem] = path
    if not found:
        raise UserError(f"{folder} has no pictures ({', '.join(sorted(SUFFIXES))})")
    return found


def decoded(paths: Sequence[Path]) -> Iterator[np.ndarray]:
    """Pictures `[H, W, 3]` uint8 in order, some of them decoded ahead."""
    with ThreadPoolExecutor() as pool:
        ahead = deque()
        for path in paths:
            ahead.append(pool.submit(_decode, path))
            if len(ahead) > AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _decode(path: Path) -> np.ndarray:
    try:
        data = pictures.load(path.parent, path.name)
    except pictures.BrokenPictureError as error:
        raise UserError(f"{path} cannot be decoded ({error}): replace it") from None
    return tf.io.decode_image(data, channels=3, expand_animations=False).numpy()
