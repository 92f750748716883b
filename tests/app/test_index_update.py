"""Updates of an index: what is embedded again, what is kept, what is refused."""

import os

import numpy as np
import pytest

from tests.helpers.image_folder import draw_color
from tests.helpers.tiny_model import export_tiny_model
from universal_embedding.app import index_update
from universal_embedding.app.image_index import ImageIndex
from universal_embedding.app.index_files import IndexFiles
from universal_embedding.app.index_update import update_index
from universal_embedding.datasets.image_files import read_image
from universal_embedding.errors import UserError
from universal_embedding.export.embedder import Embedder


def test_first_update_embeds_all_and_lists_the_corrupt(folder, model, tmp_path):
    (folder / "red" / "corrupt.jpg").write_bytes(b"\xff\xd8\xff nothing more")
    (folder / "readme.txt").write_text("")
    index, update = update_index(tmp_path / "i", folder, model, batch_size=5)
    assert (update.added, update.unchanged, update.other_files) == (12, 0, 1)
    assert list(index.corrupt) == ["red/corrupt.jpg"]
    assert index.names == [f"{c}/{i}.png" for c in ("blue", "green", "red") for i in range(4)]
    for name, row in zip(index.names, index.embeddings, strict=True):
        np.testing.assert_allclose(row, model.encode([read_image(folder / name)])[0], atol=1e-6)


def test_second_update_embeds_only_what_changed(folder, model, tmp_path):
    before, _ = update_index(tmp_path / "i", folder, model)
    model.num_embedded = 0
    again, update = update_index(tmp_path / "i", folder, model)
    assert model.num_embedded == 0 and update.unchanged == 12
    np.testing.assert_array_equal(before.embeddings, again.embeddings)

    (folder / "red" / "0.png").unlink()
    draw_color("green", 77).save(folder / "blue" / "1.png")
    os.utime(folder / "blue" / "1.png", ns=(1, 1))
    draw_color("green", 78).save(folder / "green" / "new.png")
    index, update = update_index(tmp_path / "i", folder, model)
    assert model.num_embedded == 2
    counts = (update.added, update.changed, update.removed, update.unchanged)
    assert counts == (1, 1, 1, 10)
    fresh, _ = update_index(tmp_path / "j", folder, model)
    assert index.names == fresh.names
    np.testing.assert_allclose(index.embeddings, fresh.embeddings, atol=1e-6)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["i", "images", "j"]  # nothing left over


def test_an_image_that_becomes_corrupt_leaves_the_index(folder, model, tmp_path):
    update_index(tmp_path / "i", folder, model)
    (folder / "red" / "0.png").write_bytes(b"corrupt now")
    index, _ = update_index(tmp_path / "i", folder, model)
    assert "red/0.png" in index.corrupt and "red/0.png" not in index.names


def test_an_interrupted_update_resumes(folder, model, tmp_path, monkeypatch):
    monkeypatch.setattr(index_update, "SAVE_SECONDS", 0)

    class Interrupted(type(model)):
        def encode(self, images, **options):
            if self.num_embedded >= 6:
                raise KeyboardInterrupt
            return super().encode(images, **options)

    with pytest.raises(KeyboardInterrupt):
        update_index(tmp_path / "i", folder, Interrupted(), batch_size=3)
    _, update = update_index(tmp_path / "i", folder, model)
    assert (update.unchanged, update.added) == (6, 6)


def test_files_are_read_as_written(folder, model, tmp_path):
    (folder / "corrupt.png").write_bytes(b"")
    index, _ = update_index(tmp_path / "i", folder, model)
    files = IndexFiles.read(tmp_path / "i")
    np.testing.assert_array_equal(files.embeddings, index.embeddings)
    assert files.names == index.names and files.corrupt == index.corrupt
    assert files.model == model.name and files.images_dir == folder


def test_another_model_is_refused(folder, model, other_model, tmp_path):
    index, _ = update_index(tmp_path / "i", folder, model)
    with pytest.raises(UserError, match="did not make this index"):
        ImageIndex(index.files, other_model)
    with pytest.raises(UserError, match="did not make this index"):
        update_index(tmp_path / "i", folder, other_model)


def test_anything_but_an_index_is_refused(folder, model, tmp_path):
    with pytest.raises(UserError, match="holds no index"):
        ImageIndex.load(tmp_path)
    with pytest.raises(UserError, match="inside of"):  # a folder of images is not written into
        update_index(folder, folder, model)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="holds no index"):
        update_index(tmp_path / "other", folder, model)
    update_index(tmp_path / "i", folder, model)
    np.save(next((tmp_path / "i").glob("embeddings-*.npy")), np.zeros((2, 48), np.float32))
    with pytest.raises(UserError, match="damaged"):
        ImageIndex.load(tmp_path / "i")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no images"):
        update_index(tmp_path / "k", tmp_path / "empty", model)


def test_an_index_of_prefixes_is_searched_and_updated_by_them(folder, tmp_path):
    exported = export_tiny_model(tmp_path)[1]
    model = Embedder.from_pretrained(exported, dimension=7)
    index, _ = update_index(tmp_path / "i", folder, model)
    images = [read_image(folder / name) for name in index.names]
    whole = Embedder.from_pretrained(exported).encode(images)[:, :7]
    expected = whole / np.linalg.norm(whole, axis=1, keepdims=True)
    np.testing.assert_allclose(index.embeddings, expected, atol=1e-6)
    loaded = ImageIndex.load(tmp_path / "i")  # opens the model by itself
    assert loaded.search(images[3], k=1)[0].name == index.names[3]
    assert update_index(tmp_path / "i", folder, model)[1].unchanged == 12
    with pytest.raises(UserError, match=r"7 dimensions, .* gives 64: give --dimension=7"):
        update_index(tmp_path / "i", folder, Embedder.from_pretrained(exported))
    with pytest.raises(UserError, match="dimension=65 is not a prefix of the 64"):
        Embedder.from_pretrained(exported, dimension=65)
