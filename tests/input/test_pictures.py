import dataclasses
import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from support.fake_records import encoded

from universal_embedding.errors import UserError
from universal_embedding.input.decoding import decode
from universal_embedding.input.pictures import PictureOptions, evaluation_picture, training_picture
from universal_embedding.input.resizing import ASPECTS, resize


def ramp(height, width):
    """A PNG whose red is the row and whose green is the column, as shares of 255."""
    rows = np.linspace(0, 255, height)[:, None] * np.ones(width)
    columns = np.ones(height)[:, None] * np.linspace(0, 255, width)
    pixels = np.stack([rows, columns, 0 * rows], -1).round().astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def views(contents, options, count=40):
    function = tf.function(lambda seed: training_picture(contents, seed, options))
    return np.stack([function(tf.constant([i, 1])).numpy() for i in range(count)])


SIZES = [(1, 1), (1, 400), (400, 1), (30, 3000), (2500, 1800), (3, 2)]


@pytest.mark.parametrize("aspect", ASPECTS)
@pytest.mark.parametrize("crop", ["random_resized", "resize", "none"])
def test_tiny_and_huge_pictures(aspect, crop):
    options = PictureOptions(size=24, aspect=aspect, crop=crop)
    function = tf.function(training_picture, reduce_retracing=True)
    for height, width in SIZES:
        for form in ("JPEG", "PNG"):
            contents = encoded(height, width, form=form)
            image = function(tf.constant(contents), tf.constant([height, width]), options)
            assert image.shape == (24, 24, 3)
            assert image.dtype == tf.float32
            assert 0 <= image.numpy().min() <= image.numpy().max() <= 255


@pytest.mark.parametrize("aspect", ASPECTS)
def test_no_crop_is_the_evaluation_picture(aspect):
    contents = encoded(30, 50)
    options = PictureOptions(size=24, aspect=aspect, crop="none", flip=False)
    expected = resize(decode(contents), 24, aspect)
    np.testing.assert_array_equal(views(contents, options, 1)[0], expected)
    np.testing.assert_array_equal(evaluation_picture(contents, 24, aspect), expected)


def extents(images):
    """Share of the picture's height and width that is seen, measured on the ramp."""
    red, green = images[..., 0], images[..., 1]
    spans = [np.ptp(red, axis=(1, 2)), np.ptp(green, axis=(1, 2))]
    return np.stack(spans) / 255


def test_random_resized_crop_shows_the_shares_asked_for():
    options = PictureOptions(size=64, aspect="squash", scale=(0.25, 0.64), flip=False)
    height, width = extents(views(ramp(200, 400), options, 100))
    area = height * width
    assert 0.2 < area.min() < 0.32
    assert 0.55 < area.max() < 0.7
    # squash: a crop has the picture's own shape, times 3/4 .. 4/3
    assert 0.7 < (height / width).min() < 0.85
    assert 1.2 < (height / width).max() < 1.43


def test_aspect_crop_takes_rectangles_of_about_equal_sides():
    options = PictureOptions(size=64, aspect="crop", scale=(0.1, 0.3), flip=False)
    height, width = extents(views(ramp(200, 400), options, 100))
    ratio = width * 400 / (height * 200)
    assert 0.7 < ratio.min() < 0.85
    assert 1.2 < ratio.max() < 1.43


def test_aspect_pad_pads_a_crop():
    options = PictureOptions(size=64, aspect="pad", scale=(0.3, 0.3), ratio=(1, 1), flip=False)
    images = views(ramp(100, 200), options, 5)
    assert np.abs(images[:, :15] - 127.5).max() < 1e-3
    assert np.abs(images[:, -15:] - 127.5).max() < 1e-3
    assert (images[:, 20:44, :, 2] == 0).all()


def test_resize_and_crop_against_the_other_order():
    """Cropping before resizing gives what resizing to 32 and cropping 28 gives, to a pixel."""
    options = PictureOptions(size=28, crop="resize", resize_ratio=32 / 28, flip=False)
    images = views(ramp(200, 400), options, 60)
    height, width = extents(images)
    assert np.abs(height - 28 / 32).max() < 0.05
    assert np.abs(width - 28 / 32).max() < 0.05
    first = images[:, 0, 0, :2] / 255
    assert first.min() < 0.02
    assert 0.11 < first.max() < 0.15  # 1/8 and half a pixel


@pytest.mark.parametrize("aspect", ["squash", "crop"])
def test_a_crop_that_shrinks_keeps_aliases_out(aspect):
    """One-pixel stripes become grey, whichever way they run."""
    stripes = np.zeros((160, 160, 3), np.uint8)
    stripes[::2] = 255
    for pixels in (stripes, stripes.transpose(1, 0, 2)):
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "PNG")
        options = PictureOptions(size=32, aspect=aspect, scale=(0.8, 1.0))
        assert np.abs(views(out.getvalue(), options, 10) - 127.5).max() < 40


def test_flip_mirrors_half():
    options = PictureOptions(size=16, crop="none")
    images = views(ramp(20, 20), options, 200)
    mirrored = images[:, 0, 0, 1] > images[:, 0, -1, 1]
    assert 0.4 < mirrored.mean() < 0.6
    plain, mirror = images[~mirrored][0], images[mirrored][0]
    np.testing.assert_array_equal(plain[:, ::-1], mirror)


EVERYTHING = PictureOptions(
    size=32, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, randaugment=2, cutout=0.3
)


def test_augmentation_is_a_function_of_the_picture_and_its_seed():
    """The same picture and seed among other pictures, in another order, gives the same bits."""
    pictures = [encoded(40, 50, seed=i) for i in range(6)]
    seeds = np.array([[i, 7] for i in range(6)], np.int32)

    def made(order):
        data = tf.data.Dataset.from_tensor_slices(([pictures[i] for i in order], seeds[order]))
        function = lambda contents, seed: training_picture(contents, seed, EVERYTHING)  # noqa: E731
        return list(data.map(function, num_parallel_calls=4).as_numpy_iterator())

    together = made([0, 1, 2, 3, 4, 5])
    for i, image in zip([4, 2], made([4, 2]), strict=True):
        np.testing.assert_array_equal(image, together[i])
    assert 0 <= np.min(together) <= np.max(together) <= 255
    assert len({image.tobytes() for image in together}) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"aspect": "stretch"}, "aspect 'stretch'"),
        ({"crop": "center"}, "crop 'center'"),
        ({"size": 0}, "size 0"),
        ({"scale": (0.5, 0.2)}, "smaller one first"),
        ({"hue": 0.7}, r"hue 0.7 in the picture options must lie in 0..0.5"),
        ({"mixup": -1}, "mixup -1"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(PictureOptions(), **options)
