"""Indexes that follow their folder without building their search again."""

import numpy as np
import pytest
from PIL import Image

from universal_embedding.app import image_index
from universal_embedding.app.image_index import ImageIndex
from universal_embedding.app.index_files import IndexFiles
from universal_embedding.app.index_update import update_index
from universal_embedding.search import scann_index
from universal_embedding.search.scann_index import ScannIndex


def write_noise(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def builds(monkeypatch):
    """Sizes of the trees that were built; a tree serves 100 images already."""
    sizes, build = [], ScannIndex._build
    monkeypatch.setattr(scann_index, "MIN_INDEX_SIZE", 100)
    monkeypatch.setattr(image_index, "EXACT_SEARCH_BELOW", 100)

    def build_and_count(self, rows):
        sizes.append(len(rows))
        build(self, rows)

    monkeypatch.setattr(ScannIndex, "_build", build_and_count)
    return sizes


@pytest.fixture
def many(tmp_path):
    folder = tmp_path / "many"
    for i in range(200):
        write_noise(folder / f"{i % 4}" / f"{i:03}.png", i)
    return folder


def recall_at_5(index):
    """Fraction of the five nearest images of each image that its search finds."""
    similarities = index.embeddings @ index.embeddings.T
    np.fill_diagonal(similarities, -2)
    truth = np.argsort(-similarities, 1)[:, :5]
    found = [[hit.index for hit in index.search(i, 5)] for i in range(len(index))]
    return np.mean([len(set(a) & set(b)) / 5 for a, b in zip(truth.tolist(), found, strict=True)])


def change_a_tenth(folder):
    for i in range(7):
        (folder / f"{i % 4}" / f"{i:03}.png").unlink()
        write_noise(folder / f"{i % 4}" / f"{i + 20:03}.png", 1000 + i)  # replaces another image
        write_noise(folder / "new" / f"{i}.png", 2000 + i)


def test_update_changes_the_search_that_was_saved(many, model, tmp_path, builds):
    update_index(tmp_path / "i", many, model)
    assert builds == [200]
    change_a_tenth(many)
    index, update = update_index(tmp_path / "i", many, model)
    assert (update.added, update.changed + update.removed, len(index)) == (7, 14, 200)
    assert builds == [200]  # the tree of 200 followed
    rebuilt = ImageIndex.build(model, many)
    assert index.names == rebuilt.names
    assert recall_at_5(index) >= recall_at_5(rebuilt) - 0.02 > 0.9
    for name in ("new/0.png", "0/020.png"):
        assert index.search(many / name, 1)[0].name == name
    loaded = ImageIndex.load(tmp_path / "i", model)
    assert builds == [200, 200]  # and one for `rebuilt`
    for query in range(0, 200, 10):
        assert loaded.search(query, 5) == index.search(query, 5)
    assert builds == [200, 200]
    loaded.remove(["new/0.png"])
    assert "new/0.png" not in [hit.name for hit in loaded.search(many / "new" / "0.png", 199)]
    assert len(list((tmp_path / "i").glob("search-*"))) == 1


def test_damaged_search_is_built_again(many, model, tmp_path, builds, caplog):
    update_index(tmp_path / "i", many, model)
    (rows,) = (tmp_path / "i").glob("search-*/rows.npy")
    rows.write_bytes(rows.read_bytes()[:-1])
    loaded = ImageIndex.load(tmp_path / "i", model)
    assert loaded.search(3, 1)[0].distance > 0 and builds == [200, 200]
    assert "it is built from the embeddings instead" in caplog.text


def test_search_is_made_anew_when_the_index_outgrows_exact_search(many, model, builds):
    for i in range(120):
        (many / f"{i % 4}" / f"{i:03}.png").rename(many.parent / f"{i}.png")
    index = ImageIndex.build(model, many)
    index.search(0, 1)
    for i in range(120):
        (many.parent / f"{i}.png").rename(many / f"{i % 4}" / f"{i:03}.png")
    index.update()
    index.search(0, 1)
    assert builds == [200] and not index.is_exact


def test_files_without_a_search_are_read(index, tmp_path):
    index.save(tmp_path / "i")
    assert IndexFiles.read(tmp_path / "i").search_dir is None
