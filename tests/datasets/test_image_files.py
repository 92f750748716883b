"""Odd images become upright RGB by one rule each; ordinary ones keep their bytes."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.helpers.odd_images import HEIGHT, ODD_IMAGES, WIDTH, encode, half_transparent, make_scene
from universal_embedding.datasets.image_files import (
    CorruptImageError,
    read_image,
    read_image_bytes,
    to_tf_decodable,
    unescape_path,
)
from universal_embedding.datasets.image_limits import MAX_PIXELS
from universal_embedding.datasets.image_listing import list_image_files
from universal_embedding.errors import UserError


def decode(data: bytes) -> np.ndarray:
    return tf.io.decode_image(data, channels=3, expand_animations=False).numpy()


def assert_shows_scene(data: bytes, tolerance: float = 6):
    pixels, expected = decode(data).astype(float), np.asarray(make_scene(), float)
    assert pixels.shape == expected.shape
    assert np.abs(pixels - expected).mean() < tolerance


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8))
PLAIN = {
    "jpeg": encode(make_scene(), "JPEG", quality=95),
    "progressive jpeg": encode(make_scene(), "JPEG", progressive=True),
    "gray jpeg": encode(make_scene().convert("L"), "JPEG"),
    "png": encode(make_scene(), "PNG"),
    "png with alpha": encode(make_scene().convert("RGBA"), "PNG"),
    "png with palette": encode(make_scene().quantize(64), "PNG"),
    "bmp": encode(make_scene(), "BMP"),
    "gif": encode(make_scene().quantize(64), "GIF"),
}


@pytest.mark.parametrize("kind", PLAIN)
def test_ordinary_bytes_are_kept(kind):
    assert to_tf_decodable(PLAIN[kind]) is PLAIN[kind]


@pytest.mark.parametrize("kind", ODD_IMAGES)
def test_all_ways_of_reading_agree_exactly(kind, tmp_path):
    data = ODD_IMAGES[kind]
    path = tmp_path / "image"
    path.write_bytes(data)
    expected = read_image(data)
    assert expected.dtype == np.uint8 and expected.shape[2] == 3
    np.testing.assert_array_equal(decode(to_tf_decodable(data)), expected)
    np.testing.assert_array_equal(decode(read_image_bytes(tmp_path, "image")), expected)
    np.testing.assert_array_equal(read_image(path), expected)
    np.testing.assert_array_equal(read_image(str(path)), expected)
    for file in (path, io.BytesIO(data)):
        with Image.open(file) as image:
            np.testing.assert_array_equal(read_image(image), expected)
            image.load()  # the image is still usable
    np.testing.assert_array_equal(read_image(expected), expected)
    encoded = to_tf_decodable(data)
    assert to_tf_decodable(encoded) is encoded


@pytest.mark.parametrize("kind", ODD_IMAGES)
def test_decoded_pillow_image_equals_file_up_to_lossy_decoding(kind):
    with Image.open(io.BytesIO(ODD_IMAGES[kind])) as image:
        image.load()
        pixels = read_image(image)
        is_lossy = image.format in ("JPEG", "MPO", "WEBP")
    difference = np.abs(pixels.astype(int) - read_image(ODD_IMAGES[kind]))
    assert difference.max() <= (12 if is_lossy else 0)


def test_tensorflow_and_pillow_agree_on_jpeg_up_to_the_dct(uned_mini):
    """TensorFlow decodes with the fast DCT; with the accurate one it equals Pillow exactly."""
    files = sorted((uned_mini / "images").rglob("*.jpg"))[::1500]
    for file in files:
        image = Image.open(file).convert("RGB")
        variants = [
            file.read_bytes(),
            encode(image, "JPEG", subsampling=0),
            encode(image, "JPEG", subsampling=2, progressive=True),
            encode(image.convert("L"), "JPEG"),
        ]
        for data in variants:
            pillow = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
            accurate = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE").numpy()
            np.testing.assert_array_equal(accurate, pillow)
            assert to_tf_decodable(data) is data
            np.testing.assert_array_equal(read_image(data), decode(data))
            assert np.abs(read_image(data) - pillow).max() <= 8


def composite_on_white(rgba: np.ndarray) -> np.ndarray:
    alpha = rgba[..., 3:] / 255
    return rgba[..., :3] * alpha + 255 * (1 - alpha)


def test_transparency_is_composited_on_white():
    rgba = half_transparent()
    expected = composite_on_white(np.asarray(rgba))
    for source in (rgba, np.asarray(rgba), encode(rgba, "PNG"), encode(rgba, "TIFF")):
        assert np.abs(read_image(source) - expected).max() <= 1
    lossy = read_image(encode(rgba, "WEBP", quality=95))
    assert np.abs(lossy - expected).mean() < 6


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_white_of_every_mode_is_white(mode):
    if mode == "I;16":
        image = Image.fromarray(np.full((6, 8), 65535, np.uint16))
    else:
        image = Image.new("RGB", (8, 6), "white").convert(mode)
    for source in (image, encode(image, "TIFF" if mode == "CMYK" else "PNG")):
        pixels = read_image(source)
        assert pixels.shape == (6, 8, 3) and pixels.dtype == np.uint8
        assert pixels.min() >= 254


def test_fully_transparent_image_is_white():
    assert (read_image(encode(Image.new("RGBA", (4, 4), (0, 0, 0, 0)), "PNG")) == 255).all()


def test_transparent_images_are_encoded_losslessly():
    for kind in ("WEBP", "PNG"):
        data = to_tf_decodable(encode(half_transparent(), kind))
        assert Image.open(io.BytesIO(data)).format == "PNG"


def test_transparent_palette_entry_and_color_key_are_white():
    palette = make_scene().quantize(8)
    expected = read_image(palette)
    is_transparent = np.asarray(palette) == 3
    assert is_transparent.any() and not is_transparent.all()
    expected = np.where(is_transparent[..., None], 255, expected)
    for kind in ("PNG", "GIF"):
        pixels = read_image(encode(palette, kind, transparency=3))
        np.testing.assert_array_equal(pixels, expected)
    key = tuple(read_image(palette)[is_transparent][0].tolist())
    pixels = read_image(encode(palette.convert("RGB"), "PNG", transparency=key))
    np.testing.assert_array_equal(pixels, expected)


def test_palette_bmp_is_not_read_as_gray():
    palette = make_scene().quantize(8)
    data = to_tf_decodable(encode(palette, "BMP"))
    np.testing.assert_array_equal(decode(data), np.asarray(palette.convert("RGB")))


def test_wrong_suffix_keeps_bytes(tmp_path):
    (tmp_path / "really-a-png.jpg").write_bytes(PLAIN["png"])
    assert read_image_bytes(tmp_path, "really-a-png.jpg") == PLAIN["png"]


@pytest.mark.parametrize("kind, becomes", [("WEBP", "JPEG"), ("TIFF", "PNG"), ("PPM", "PNG")])
def test_formats_not_every_tensorflow_has(kind, becomes):
    data = to_tf_decodable(encode(make_scene(), kind))
    assert Image.open(io.BytesIO(data)).format == becomes
    assert_shows_scene(data)


def test_lossless_webp_stays_lossless():
    data = to_tf_decodable(encode(make_scene(), "WEBP", lossless=True))
    np.testing.assert_array_equal(decode(data), np.asarray(make_scene()))


def test_cmyk_jpeg_becomes_rgb():
    data = encode(make_scene().convert("CMYK"), "JPEG", quality=95)
    assert_shows_scene(to_tf_decodable(data), 9)


STORED_TRANSPOSES = {  # how a camera stores the upright scene, by its orientation tag
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", STORED_TRANSPOSES)
def test_rotated_jpeg_becomes_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = make_scene().transpose(STORED_TRANSPOSES[orientation])
    data = to_tf_decodable(encode(stored, "JPEG", quality=95, subsampling=0, exif=exif))
    assert_shows_scene(data)
    assert Image.open(io.BytesIO(data)).getexif().get(0x0112, 1) == 1


def test_exif_orientation_of_png_is_applied():
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :20] = 255  # the left half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate clockwise: left becomes top
    upright = read_image(encode(Image.fromarray(pixels), "PNG", exif=exif))
    assert upright.shape == (40, 20, 3)
    assert upright[:20].min() == 255 and upright[20:].max() == 0


def test_upright_exif_keeps_bytes():
    exif = Image.Exif()
    exif[0x0112] = 1
    data = encode(make_scene(), "JPEG", exif=exif)
    assert to_tf_decodable(data) is data


def test_16_bit_gray_png_is_scaled_not_clipped():
    gray = np.linspace(0, 65535, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint16)
    pixels = decode(to_tf_decodable(encode(Image.fromarray(gray), "PNG")))
    np.testing.assert_array_equal(pixels, np.repeat((gray >> 8)[..., None], 3, -1))


def test_16_bit_color_png_keeps_the_upper_bits():
    pixels = (np.asarray(make_scene()).astype(np.uint16) * 257)[..., :3]
    data = tf.io.encode_png(pixels).numpy()
    assert data[24] == 16
    encoded = to_tf_decodable(data)
    assert encoded[24] == 8
    np.testing.assert_array_equal(decode(encoded), np.asarray(make_scene()))


def test_float_tiff_is_scaled_to_its_maximum():
    values = np.linspace(0, 0.5, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
    pixels = read_image(encode(Image.fromarray(values), "TIFF"))
    expected = (values.astype(np.float64) * 510).astype(int)
    assert np.abs(pixels - expected[..., None]).max() <= 1


def test_animated_gif_gives_its_first_frame():
    frames = [make_scene().quantize(64), Image.new("P", (WIDTH, HEIGHT))]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    encoded = to_tf_decodable(data)
    assert encoded != data
    assert_shows_scene(encoded, 20)
    assert tf.io.decode_image(encoded).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP"])
@pytest.mark.parametrize("fraction", [0.5, 0.8, 0.99])
def test_truncated_file_is_corrupt(kind, fraction):
    data = encode(NOISE.quantize(64) if kind == "GIF" else NOISE, kind)
    truncated = data[: int(fraction * len(data))]
    with pytest.raises(CorruptImageError):
        to_tf_decodable(truncated)
    with pytest.raises(CorruptImageError):
        read_image(truncated)


@pytest.mark.parametrize("data", [b"", b"<html>not found</html>", bytes(1000), b"\xff\xd8\xff\xe0"])
def test_other_bytes_are_corrupt(data):
    with pytest.raises(CorruptImageError):
        to_tf_decodable(data)
    with pytest.raises(CorruptImageError):
        read_image(data)


@pytest.mark.parametrize("data", [b"not an image", b"<svg xmlns='x'/>", b"%!PS-Adobe-3.0"])
def test_other_formats_are_refused_by_name(data):
    with pytest.raises(UserError, match=r"cannot decode image; supported formats: BMP.*JPEG"):
        read_image(data)


def test_missing_file_and_folder_are_corrupt(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    for name in ("nothing.jpg", "folder.jpg"):
        with pytest.raises(CorruptImageError):
            read_image_bytes(tmp_path, name)
        with pytest.raises(CorruptImageError):
            read_image(tmp_path / name)


def test_escaped_names_are_found(tmp_path):
    name = "train/农夫山泉é/可乐_1.jpg"
    escaped = "train/#U519c#U592b#U5c71#U6cc9#U00e9/#U53ef#U4e50_1.jpg"
    assert unescape_path(name) == escaped
    (tmp_path / escaped).parent.mkdir(parents=True)
    (tmp_path / escaped).write_bytes(PLAIN["jpeg"])
    assert read_image_bytes(tmp_path, name) == PLAIN["jpeg"]


def test_crop_is_a_part_of_the_image():
    pixels = read_image(PLAIN["png"])
    np.testing.assert_array_equal(
        read_image(PLAIN["png"], crop=(0.25, 0, 0.75, 0.5)), pixels[: HEIGHT // 2, 9:27]
    )
    np.testing.assert_array_equal(read_image(PLAIN["png"], crop=(0, 0, 1, 1)), pixels)
    assert read_image(PLAIN["png"], crop=(0.999, 0.999, 1, 1)).shape == (1, 1, 3)
    values = np.arange(600, dtype=np.uint16).astype(np.uint8).reshape(10, 20, 3)
    cropped = read_image(encode(Image.fromarray(values), "PNG"), crop=(0.5, 0.2, 1, 0.6))
    np.testing.assert_array_equal(cropped, values[2:6, 10:20])


@pytest.mark.parametrize("crop", [(0.5, 0, 0.5, 1), (-0.1, 0, 1, 1), (0, 0, 1.1, 1)])
def test_crop_outside_the_image_is_refused(crop):
    with pytest.raises(UserError, match="crop="):
        read_image(PLAIN["png"], crop=crop)


def test_large_images_are_refused_by_their_header():
    limit = HEIGHT * WIDTH
    read_image(PLAIN["png"], max_pixels=limit)
    header = PLAIN["png"][:100]  # nothing to decode
    with pytest.raises(CorruptImageError, match=f"{WIDTH} x {HEIGHT} pixels"):
        read_image(header, max_pixels=limit - 1)
    bomb = encode(Image.new("1", (10_001, 10_000)), "PNG")
    assert len(bomb) < 200_000 and MAX_PIXELS == 100_000_000
    with pytest.raises(CorruptImageError, match="10001 x 10000 pixels, more than 100,000,000"):
        read_image(bomb)
    for source in (make_scene(), np.asarray(make_scene())):
        read_image(source, max_pixels=limit)
        with pytest.raises(CorruptImageError, match="more than"):
            read_image(source, max_pixels=limit - 1)


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4, 2), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)]
)
def test_other_arrays_are_refused(array):
    with pytest.raises(UserError, match=r"expected uint8 \[H, W\]"):
        read_image(array)


def test_list_image_files_counts_the_others(tmp_path):
    for name in ("b/1.JPG", "a/2.png", "0.webp", "notes.txt", "a/.hidden.jpg"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).touch()
    (tmp_path / "secret.jpg").touch()
    (tmp_path / "images/link.jpg").symlink_to(tmp_path / "secret.jpg")
    listing = list_image_files(tmp_path / "images")
    assert listing.names == ["0.webp", "a/2.png", "b/1.JPG"]
    assert (listing.num_other_files, listing.unusable) == (3, {})
    with pytest.raises(UserError, match="not a directory"):
        list_image_files(tmp_path / "nothing")
