"""Decodes image files ahead of their use, in order, within a bound on memory.

A file of a kilobyte may decode to 300 MB, so images are counted by their bytes, which their headers
declare.
"""

import os
import threading
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from universal_embedding.datasets.image_files import read_image, read_image_size
from universal_embedding.datasets.image_limits import CorruptImageError, read_file

MAX_BYTES = 256 << 20
MAX_IMAGES = 64


def decode_ahead(
    paths: Iterable[str | os.PathLike], max_bytes: int = MAX_BYTES
) -> Generator[np.ndarray | CorruptImageError]:
    """Decodes local image files in threads, by the rules of `image_files`.

    Args:
        paths: The files; read as far as images are decoded.
        max_bytes: Bytes of all images that wait to be yielded; a larger one waits alone.

    Yields:
        For each file `[H, W, 3]` uint8, RGB, or the reason why there is none.
    """
    budget = _Budget(max_bytes)
    pool = ThreadPoolExecutor()
    pending: deque[Future] = deque()

    def take_first() -> np.ndarray | CorruptImageError:
        image, size = pending.popleft().result()
        budget.release(size)
        return image

    try:
        for turn, path in enumerate(paths):
            pending.append(pool.submit(_decode, path, turn, budget))
            if len(pending) == MAX_IMAGES:
                yield take_first()
        while pending:
            yield take_first()
    finally:
        budget.close()
        pool.shutdown(cancel_futures=True)


def _decode(
    path: str | os.PathLike, turn: int, budget: "_Budget"
) -> tuple[np.ndarray | CorruptImageError, int]:
    """The image, or why there is none, and the bytes that it holds of the budget."""
    size = 0
    try:
        try:
            data = read_file(path)
            height, width = read_image_size(data)
            size = 3 * height * width
        finally:
            budget.acquire(turn, size)
        return read_image(data), size
    except CorruptImageError as error:
        return error, size


class _Budget:
    """Bytes that threads share; they get them in order, so that the first is never kept waiting."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._used, self._turn = max_bytes, 0, 0
        self._closed = False
        self._changed = threading.Condition()

    def acquire(self, turn: int, size: int) -> None:
        """Waits for the turn, and until `size` bytes are free or none is used."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._is_free(turn, size))
            self._used += size
            self._turn += 1
            self._changed.notify_all()

    def release(self, size: int) -> None:
        """Gives bytes back."""
        with self._changed:
            self._used -= size
            self._changed.notify_all()

    def close(self) -> None:
        """Lets all threads go on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _is_free(self, turn: int, size: int) -> bool:
        return turn == self._turn and (not self._used or self._used + size <= self._max_bytes)
