"""Decoding ahead: in order, within its bound on memory, and without a thread that is left over."""

import threading
import time

import numpy as np
import pytest
from PIL import Image

from universal_embedding.datasets import image_prefetch
from universal_embedding.datasets.image_files import read_image
from universal_embedding.datasets.image_limits import CorruptImageError


@pytest.fixture
def files(tmp_path):
    """Images of four sizes, each fifth one corrupt."""
    for i in range(60):
        path = tmp_path / f"{i:02}.png"
        Image.new("RGB", (100 * (1 + i % 4), 100), (i, 0, 0)).save(path)
        if i % 5 == 0:
            path.write_bytes(path.read_bytes()[:60])
    return sorted(tmp_path.iterdir())


@pytest.mark.parametrize("max_bytes", [1, 150_000, 10_000_000])
def test_images_come_in_order_and_corrupt_ones_by_reason(files, max_bytes):
    for path, image in zip(files, image_prefetch.decode_ahead(files, max_bytes), strict=True):
        if isinstance(image, CorruptImageError):
            assert int(path.stem) % 5 == 0
        else:
            np.testing.assert_array_equal(image, read_image(path))


@pytest.mark.parametrize("max_bytes", [1, 100_000, 250_000])
def test_images_that_wait_hold_no_more_than_the_bound(files, max_bytes, monkeypatch):
    held, peak, lock = 0, 0, threading.Lock()

    def read(data):
        nonlocal held, peak
        pixels = read_image(data)
        with lock:
            held += pixels.nbytes
            peak = max(peak, held)
        return pixels

    monkeypatch.setattr(image_prefetch, "read_image", read)
    for image in image_prefetch.decode_ahead(files, max_bytes):
        time.sleep(0.002)  # a slow consumer, while all threads could go on
        with lock:
            held -= getattr(image, "nbytes", 0)
    assert 0 < peak <= max(max_bytes, 120_000) + 120_000  # the second is with the consumer


def test_giving_up_early_ends_the_threads(files):
    before = threading.active_count()
    images = image_prefetch.decode_ahead(files, 1)
    next(images)
    images.close()
    assert threading.active_count() == before
