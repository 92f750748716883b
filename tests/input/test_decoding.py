"""Every kind of picture, decoded and cropped, against Pillow."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from support.fake_records import encoded

from universal_embedding.input.decoding import decode, decode_crop

KINDS = [("JPEG", "RGB"), ("JPEG", "L"), ("PNG", "RGB"), ("PNG", "L"), ("PNG", "P"), ("GIF", "P")]
KINDS += [("BMP", "RGB")]


def by_pillow(contents):
    return np.asarray(Image.open(io.BytesIO(contents)).convert("RGB"))


@pytest.mark.parametrize(("form", "mode"), KINDS)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (37, 61), (1, 300)])
def test_decode(form, mode, height, width):
    contents = encoded(height, width, form=form, mode=mode)
    image = decode(contents)
    assert image.dtype == tf.uint8
    tolerance = 3 if form == "JPEG" else 0  # decoders differ in the last bits
    np.testing.assert_allclose(image.numpy().astype(int), by_pillow(contents), atol=tolerance)


@pytest.mark.parametrize(("form", "mode"), KINDS)
@pytest.mark.parametrize("box", [(0, 0, 37, 61), (5, 7, 20, 30), (36, 60, 1, 1)])
def test_a_crop_is_a_part_of_the_whole(form, mode, box):
    contents = encoded(37, 61, form=form, mode=mode)
    seen = []
    image = decode_crop(contents, lambda shape: (seen.append(shape), tf.constant(box))[1])
    top, left, height, width = box
    whole = decode(contents).numpy().astype(int)
    assert seen[0].numpy().tolist() == [37, 61]
    part = whole[top : top + height, left : left + width]
    # decode-and-crop smooths colour across the crop's edge a little differently
    np.testing.assert_allclose(image.numpy(), part, atol=8 if form == "JPEG" else 0)


def test_animation_gives_its_first_picture():
    frames = [Image.new("RGB", (9, 7), colour).convert("P") for colour in ("red", "blue")]
    out = io.BytesIO()
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    image = decode(out.getvalue())
    assert image.shape == (7, 9, 3)
    assert (image.numpy() == [255, 0, 0]).all()


def test_not_a_picture():
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode(b"nothing of the kind")
