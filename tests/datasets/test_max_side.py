"""Images that `prepare --max_side` makes smaller."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.helpers.layouts import toys_builder
from universal_embedding.datasets import prepare
from universal_embedding.datasets.image_files import read_image, to_tf_decodable
from universal_embedding.datasets.records import open_records
from universal_embedding.errors import UserError


@pytest.mark.parametrize(
    ("size", "expected"),
    [((400, 300), (100, 75)), ((300, 400), (75, 100)), ((1000, 3), (100, 1)), ((100, 99), None)],
)
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_larger_images_alone_are_resized(size, expected, file_format):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize(size, Image.BICUBIC)
    out = io.BytesIO()
    image.save(out, file_format)
    data = out.getvalue()
    resized = to_tf_decodable(data, max_side=100)
    if expected is None:
        assert resized == to_tf_decodable(data)
        return
    with Image.open(io.BytesIO(resized)) as opened:
        assert (opened.format, opened.size) == ("JPEG", expected)
    assert np.array_equal(read_image(resized), tf.io.decode_image(resized, channels=3))
    smooth = Image.fromarray(read_image(data)).resize(expected, Image.LANCZOS)
    assert np.abs(read_image(resized).astype(int) - np.asarray(smooth)).mean() < 2


def test_max_side_is_reported_and_compared(root, tmp_path):
    for i in range(12):
        pixels = np.random.default_rng(i).integers(0, 256, (100 if i < 6 else 40, 30, 3), np.uint8)
        Image.fromarray(pixels).save(root / f"images/toys/{i}.jpg", quality=95)
    sizes = [(root / f"images/toys/{i}.jpg").stat().st_size for i in range(12)]
    summary = prepare.prepare(toys_builder(tmp_path, max_side=50), root)
    records = open_records(tmp_path, "small", "toys", "train")
    images = records.read(range(12))
    assert [read_image(image).shape[:2] for image in images] == [(50, 15)] * 6 + [(40, 30)] * 6
    total, shrunk = sum(sizes), sum(map(len, images))
    assert images[6:] == [(root / f"images/toys/{i}.jpg").read_bytes() for i in range(6, 12)]
    assert f"--max_side=50 made {total / 1e6:.1f} MB" in summary
    assert f"{1 - shrunk / total:.0%} smaller" in summary
    for other in (None, 60):
        with pytest.raises(UserError, match=f"--max_side=50, not --max_side={other}"):
            prepare.prepare(toys_builder(tmp_path, max_side=other), root)
    assert prepare.prepare(toys_builder(tmp_path, max_side=50), root) == ""
