"""Decoding and cropping against Pillow, and the views of an image in training and evaluation."""

import dataclasses
import io
import itertools

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.helpers.fake_records import encode_random_image
from tests.helpers.processes import run
from universal_embedding.errors import UserError
from universal_embedding.input.images import (
    AugmentationConfig,
    decode,
    decode_crop,
    preprocess_eval,
    preprocess_train,
)
from universal_embedding.input.resizing import RESIZE_MODES, resize

FORMATS = [("JPEG", "RGB"), ("JPEG", "L"), ("PNG", "RGB"), ("PNG", "L"), ("PNG", "P")]
FORMATS += [("GIF", "P"), ("BMP", "RGB")]


def decode_with_pillow(contents):
    return np.asarray(Image.open(io.BytesIO(contents)).convert("RGB"))


def encode_png(pixels):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize(("file_format", "mode"), FORMATS)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (37, 61), (1, 300)])
def test_decode_equals_pillow(file_format, mode, height, width):
    contents = encode_random_image(height, width, file_format=file_format, mode=mode)
    image = decode(contents)
    assert image.dtype == tf.uint8
    tolerance = 3 if file_format == "JPEG" else 0  # decoders differ in the last bits
    expected = decode_with_pillow(contents)
    np.testing.assert_allclose(image.numpy().astype(int), expected, atol=tolerance)


@pytest.mark.parametrize(("file_format", "mode"), FORMATS)
@pytest.mark.parametrize("box", [(0, 0, 37, 61), (5, 7, 20, 30), (36, 60, 1, 1)])
def test_decode_crop_equals_a_crop_of_the_whole_image(file_format, mode, box):
    contents = encode_random_image(37, 61, file_format=file_format, mode=mode)
    shapes = []
    image = decode_crop(contents, lambda shape: (shapes.append(shape), tf.constant(box))[1])
    top, left, height, width = box
    full_image = decode(contents).numpy().astype(int)
    assert shapes[0].numpy().tolist() == [37, 61]
    expected = full_image[top : top + height, left : left + width]
    # decode-and-crop smooths color across the crop's edge a little differently
    np.testing.assert_allclose(image.numpy(), expected, atol=8 if file_format == "JPEG" else 0)


def test_decode_takes_the_first_frame_of_an_animation():
    frames = [Image.new("RGB", (9, 7), color).convert("P") for color in ("red", "blue")]
    out = io.BytesIO()
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    image = decode(out.getvalue())
    assert image.shape == (7, 9, 3)
    assert (image.numpy() == [255, 0, 0]).all()


def test_decode_of_other_bytes_is_an_error():
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode(b"nothing of the kind")


def ramp(height, width):
    """A PNG whose red is the row and whose green is the column, as fractions of 255."""
    rows = np.linspace(0, 255, height)[:, None] * np.ones(width)
    columns = np.ones(height)[:, None] * np.linspace(0, 255, width)
    return encode_png(np.stack([rows, columns, 0 * rows], -1).round().astype(np.uint8))


def make_views(contents, config, count=40):
    function = tf.function(lambda seed: preprocess_train(contents, seed, config))
    views = [function(tf.constant([i, 1])).numpy() for i in range(count)]
    return np.stack(views).astype(np.float32)


SIZES = [(1, 1), (1, 400), (400, 1), (30, 3000), (2500, 1800), (3, 2)]


@pytest.mark.parametrize("resize_mode", RESIZE_MODES)
@pytest.mark.parametrize("crop", ["random_resized", "resize", "none"])
def test_tiny_and_huge_images_give_the_configured_size(resize_mode, crop):
    config = AugmentationConfig(size=24, resize_mode=resize_mode, crop=crop)
    function = tf.function(preprocess_train, reduce_retracing=True)
    for height, width in SIZES:
        for file_format in ("JPEG", "PNG"):
            contents = encode_random_image(height, width, file_format=file_format)
            image = function(tf.constant(contents), tf.constant([height, width]), config)
            assert image.shape == (24, 24, 3)
            assert image.dtype == tf.uint8


@pytest.mark.parametrize("resize_mode", RESIZE_MODES)
def test_training_view_without_crop_equals_the_evaluation_image(resize_mode):
    contents = encode_random_image(30, 50)
    config = AugmentationConfig(size=24, resize_mode=resize_mode, crop="none", flip=False)
    expected = resize(decode(contents), 24, resize_mode)
    np.testing.assert_array_equal(make_views(contents, config, 1)[0], np.floor(expected + 0.5))
    np.testing.assert_array_equal(preprocess_eval(contents, 24, resize_mode), expected)


def extents(images):
    """Visible fractions of the image's height and width, measured on the ramp."""
    red, green = images[..., 0], images[..., 1]
    spans = [np.ptp(red, axis=(1, 2)), np.ptp(green, axis=(1, 2))]
    return np.stack(spans) / 255


def test_random_resized_crop_shows_the_configured_area():
    config = AugmentationConfig(size=64, resize_mode="squash", scale=(0.25, 0.64), flip=False)
    height, width = extents(make_views(ramp(200, 400), config, 100))
    area = height * width
    assert 0.2 < area.min() < 0.32
    assert 0.55 < area.max() < 0.7
    # squash: a crop has the image's own aspect ratio, times 3/4 .. 4/3
    assert 0.7 < (height / width).min() < 0.85
    assert 1.2 < (height / width).max() < 1.43


def test_random_resized_crop_is_nearly_square_with_resize_mode_crop():
    config = AugmentationConfig(size=64, resize_mode="crop", scale=(0.1, 0.3), flip=False)
    height, width = extents(make_views(ramp(200, 400), config, 100))
    ratio = width * 400 / (height * 200)
    assert 0.7 < ratio.min() < 0.85
    assert 1.2 < ratio.max() < 1.43


def test_random_resized_crop_is_padded_with_resize_mode_pad():
    config = AugmentationConfig(
        size=64, resize_mode="pad", scale=(0.3, 0.3), ratio=(1, 1), flip=False
    )
    images = make_views(ramp(100, 200), config, 5)
    assert (images[:, :15] == 128).all()
    assert (images[:, -15:] == 128).all()
    assert (images[:, 20:44, :, 2] == 0).all()


def test_resize_crop_equals_resizing_before_cropping():
    """Cropping before resizing gives what resizing to 32 and cropping 28 gives, to a pixel."""
    config = AugmentationConfig(size=28, crop="resize", resize_ratio=32 / 28, flip=False)
    images = make_views(ramp(200, 400), config, 60)
    height, width = extents(images)
    assert np.abs(height - 28 / 32).max() < 0.05
    assert np.abs(width - 28 / 32).max() < 0.05
    first = images[:, 0, 0, :2] / 255
    assert first.min() < 0.02
    assert 0.11 < first.max() < 0.15  # 1/8 and half a pixel


@pytest.mark.parametrize("resize_mode", ["squash", "crop"])
def test_shrinking_crop_does_not_alias(resize_mode):
    """One-pixel stripes become gray, horizontal or vertical."""
    stripes = np.zeros((160, 160, 3), np.uint8)
    stripes[::2] = 255
    config = AugmentationConfig(size=32, resize_mode=resize_mode, scale=(0.8, 1.0))
    for pixels in (stripes, stripes.transpose(1, 0, 2)):
        assert np.abs(make_views(encode_png(pixels), config, 10) - 127.5).max() < 40


def test_crop_averages_along_a_side_that_shrinks_and_interpolates_along_one_that_grows():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 90, 3), np.uint8)
    edges = np.arange(33) * 90 / 32
    averages = np.zeros((20, 32, 3))
    for i, (left, right) in enumerate(itertools.pairwise(edges)):
        for column in range(90):
            overlap = max(0.0, min(right, column + 1) - max(left, column))
            averages[:, i] += pixels[:, column] * overlap / (right - left)
    places = (np.arange(32) + 0.5) * 20 / 32 - 0.5
    expected = np.empty((32, 32, 3))
    for column, channel in np.ndindex(32, 3):
        expected[:, column, channel] = np.interp(places, range(20), averages[:, column, channel])
    config = AugmentationConfig(size=32, scale=(1, 1), ratio=(1, 1), flip=False)
    for image, wanted in ((pixels, expected), (pixels.swapaxes(0, 1), expected.swapaxes(0, 1))):
        view = make_views(encode_png(image), config, 1)[0]
        assert np.abs(view - wanted).max() < 0.501


def test_flip_mirrors_half_of_the_images():
    config = AugmentationConfig(size=16, crop="none")
    images = make_views(ramp(20, 20), config, 200)
    mirrored = images[:, 0, 0, 1] > images[:, 0, -1, 1]
    assert 0.4 < mirrored.mean() < 0.6
    plain, mirror = images[~mirrored][0], images[mirrored][0]
    np.testing.assert_array_equal(plain[:, ::-1], mirror)


FULL_AUGMENTATION = AugmentationConfig(
    size=32,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    randaugment=2,
    random_erasing=0.09,
)


def test_augmentation_depends_on_the_image_and_its_seed_alone():
    """The same image and seed among other images, in another order, gives the same bits."""
    contents = [encode_random_image(40, 50, seed=i) for i in range(6)]
    seeds = np.array([[i, 7] for i in range(6)], np.int32)

    def preprocess(image, seed):
        return preprocess_train(image, seed, FULL_AUGMENTATION)

    def make_images(order):
        data = tf.data.Dataset.from_tensor_slices(([contents[i] for i in order], seeds[order]))
        return list(data.map(preprocess, num_parallel_calls=4).as_numpy_iterator())

    images = make_images([0, 1, 2, 3, 4, 5])
    for i, image in zip([4, 2], make_images([4, 2]), strict=True):
        np.testing.assert_array_equal(image, images[i])
    assert len({image.tobytes() for image in images}) == 6


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"resize_mode": "stretch"}, "resize_mode 'stretch'"),
        ({"crop": "center"}, "crop 'center'"),
        ({"size": 0}, "size 0"),
        ({"scale": (0.5, 0.2)}, "smaller one first"),
        ({"hue": 0.7}, r"hue 0.7 in the augmentation config must be in 0..0.5"),
        ({"mixup": -1}, "mixup -1"),
    ],
)
def test_invalid_augmentation_config_is_an_error(fields, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(AugmentationConfig(), **fields)


def test_augmentation_config_imports_no_tensorflow():
    script = (
        "import sys, universal_embedding.input.augmentation_config; "
        "print('tensorflow' in sys.modules)"
    )
    code, out, err = run("-c", script)
    assert (code, out.strip()) == (0, "False"), err


@pytest.mark.parametrize(("side", "scale"), [(63, 1), (64, 2), (130, 4), (300, 8)])
def test_scaled_decoding_keeps_the_crop_and_at_least_the_size(side, scale):
    contents = encode_random_image(320, 400)
    box = tf.constant([16, 8, side, side + 20])
    full = decode_crop(contents, lambda _: box)
    image = decode_crop(contents, lambda _: box, min_size=32)
    assert image.shape[:2] == (side // scale, (side + 20) // scale)
    assert min(image.shape[:2]) >= 32
    views = [
        tf.image.resize(tf.cast(i, tf.float32), [32, 32], antialias=True) for i in (full, image)
    ]
    assert np.abs(views[0] - views[1]).mean() < 3


def test_scaled_decoding_can_be_switched_off():
    contents = encode_random_image(200, 240)
    config = AugmentationConfig(size=24, crop="resize", flip=False)
    unscaled = dataclasses.replace(config, scaled_decoding=False)
    with_scale, without = (make_views(contents, c, 8) for c in (config, unscaled))
    assert (with_scale != without).any()
    assert np.abs(with_scale - without).mean() < 4
    small = encode_random_image(40, 50)  # crops below twice the size
    np.testing.assert_array_equal(make_views(small, config, 8), make_views(small, unscaled, 8))
