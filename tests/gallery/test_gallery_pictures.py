import io

import numpy as np
import pytest
from PIL import Image

from universal_embedding.errors import UserError
from universal_embedding.gallery import pictures


def encoded(picture, kind="PNG", **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def test_reads_rgb_as_it_is():
    values = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    np.testing.assert_array_equal(pictures.read(encoded(Image.fromarray(values))), values)


def test_exif_rotation_is_applied():
    values = np.zeros((20, 40, 3), np.uint8)
    values[:, :20] = 255  # the left half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise: left becomes top
    picture = pictures.read(encoded(Image.fromarray(values), exif=exif))
    assert picture.shape == (40, 20, 3)
    assert picture[:20].min() == 255 and picture[20:].max() == 0


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(mode):
    if mode == "I;16":
        picture = Image.fromarray(np.full((6, 8), 65535, np.uint16))
    else:
        picture = Image.new("RGB", (8, 6), "white").convert(mode)
    values = pictures.read(encoded(picture, "TIFF" if mode == "CMYK" else "PNG"))
    assert values.shape == (6, 8, 3) and values.dtype == np.uint8
    assert values.min() >= 254


def test_transparency_becomes_white():
    values = pictures.read(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 0))))
    assert (values == 255).all()


def test_crop_takes_the_named_part():
    values = np.arange(600, dtype=np.uint16).astype(np.uint8).reshape(10, 20, 3)
    cropped = pictures.read(encoded(Image.fromarray(values)), crop=(0.5, 0.2, 1, 0.6))
    np.testing.assert_array_equal(cropped, values[2:6, 10:20])
    assert pictures.read(encoded(Image.fromarray(values)), (0.99, 0.99, 1, 1)).size == 3


def test_large_pictures_are_scaled_down():
    values = pictures.read(encoded(Image.new("RGB", (3000, 1500)), "JPEG"))
    assert values.shape == (512, 1024, 3)


def test_bombs_are_refused_before_decoding():
    bomb = encoded(Image.new("1", (9000, 9000)))
    assert len(bomb) < 200_000
    with pytest.raises(UserError, match="9000 x 9000 pixels, more than 50,000,000"):
        pictures.read(bomb)
    with pytest.raises(UserError, match="12 x 10 pixels, more than 100"):
        pictures.read(encoded(Image.new("RGB", (12, 10))), max_pixels=100)


@pytest.mark.parametrize("content", [b"", b"no picture", b"<svg xmlns='x'/>", b"%!PS-Adobe-3.0"])
def test_what_is_no_picture_is_refused(content):
    with pytest.raises(UserError, match="no picture"):
        pictures.read(content)


def test_cut_files_are_refused():
    noise = np.random.default_rng(0).integers(0, 256, (99, 99, 3), np.uint8)
    for kind in ("JPEG", "PNG", "WEBP", "GIF"):
        content = encoded(Image.fromarray(noise), kind)
        with pytest.raises(UserError, match="no picture"):
            pictures.read(content[: len(content) // 2])


def test_lists_pictures_and_counts_the_rest(folder, tmp_path):
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.png").write_bytes(b"")
    (tmp_path / "secret.png").write_bytes(b"secret")
    (folder / "red" / "out.png").symlink_to(tmp_path / "secret.png")
    (folder / "loose.JPG").write_bytes(b"")
    names, others = pictures.list_pictures(folder)
    assert len(names) == 13 and others == 3
    assert names == sorted(names)
    assert pictures.category("red/a/0.png") == "red" and pictures.category("loose.JPG") == ""
