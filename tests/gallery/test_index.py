import os

import numpy as np
import pytest

from universal_embedding.errors import UserError
from universal_embedding.gallery import indexing
from universal_embedding.gallery.index import Index
from universal_embedding.gallery.pictures import read
from universal_embedding.gallery.search import Gallery


def test_first_run_embeds_all_and_lists_the_broken(folder, model, tmp_path):
    (folder / "red" / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing more")
    (folder / "readme.txt").write_text("")
    index, changes = indexing.update(tmp_path / "i", folder, model, tmp_path, batch_size=5)
    assert (changes.added, changes.kept, changes.other_files) == (12, 0, 1)
    assert list(index.broken) == ["red/broken.jpg"]
    assert index.names == [f"{c}/{i}.png" for c in ("blue", "green", "red") for i in range(4)]
    for name, row in zip(index.names, index.embeddings, strict=True):
        np.testing.assert_allclose(row, model([read(folder / name)])[0], atol=1e-6)


def test_second_run_embeds_only_what_changed(folder, model, tmp_path, picture):
    before, _ = indexing.update(tmp_path / "i", folder, model, tmp_path)
    model.embedded = 0
    again, changes = indexing.update(tmp_path / "i", folder, model, tmp_path)
    assert model.embedded == 0 and changes.kept == 12
    np.testing.assert_array_equal(before.embeddings, again.embeddings)

    (folder / "red" / "0.png").unlink()
    picture("green", 77).save(folder / "blue" / "1.png")
    os.utime(folder / "blue" / "1.png", ns=(1, 1))
    picture("green", 78).save(folder / "green" / "new.png")
    index, changes = indexing.update(tmp_path / "i", folder, model, tmp_path)
    assert model.embedded == 2
    assert (changes.added, changes.changed, changes.removed, changes.kept) == (1, 1, 1, 10)
    fresh, _ = indexing.update(tmp_path / "j", folder, model, tmp_path)
    assert index.names == fresh.names
    np.testing.assert_allclose(index.embeddings, fresh.embeddings, atol=1e-6)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["gallery", "i", "j"]  # nothing left over


def test_a_picture_that_breaks_leaves_the_index(folder, model, tmp_path):
    indexing.update(tmp_path / "i", folder, model, tmp_path)
    (folder / "red" / "0.png").write_bytes(b"broken now")
    index, _ = indexing.update(tmp_path / "i", folder, model, tmp_path)
    assert "red/0.png" in index.broken and "red/0.png" not in index.names


def test_an_interrupted_run_goes_on(folder, model, tmp_path, monkeypatch):
    monkeypatch.setattr(indexing, "SAVE_SECONDS", 0)

    class Interrupted(type(model)):
        def __call__(self, pictures, **options):
            if self.embedded >= 6:
                raise KeyboardInterrupt
            return super().__call__(pictures, **options)

    with pytest.raises(KeyboardInterrupt):
        indexing.update(tmp_path / "i", folder, Interrupted(), tmp_path, batch_size=3)
    _, changes = indexing.update(tmp_path / "i", folder, model, tmp_path)
    assert (changes.kept, changes.added) == (6, 6)


def test_opened_as_saved(folder, model, tmp_path):
    (folder / "broken.png").write_bytes(b"")
    index, _ = indexing.update(tmp_path / "i", folder, model, tmp_path / "m.zip")
    opened = Index.open(tmp_path / "i")
    np.testing.assert_array_equal(opened.embeddings, index.embeddings)
    assert opened.names == index.names and opened.broken == index.broken
    assert opened.model == tmp_path / "m.zip" and opened.gallery == folder


def test_another_model_is_refused(folder, model, other_model, tmp_path):
    index, _ = indexing.update(tmp_path / "i", folder, model, tmp_path)
    with pytest.raises(UserError, match="did not make this index"):
        Gallery(index, other_model, tmp_path)
    with pytest.raises(UserError, match="did not make this index"):
        indexing.update(tmp_path / "i", folder, other_model, tmp_path)


def test_what_is_no_index_is_refused(folder, model, tmp_path):
    with pytest.raises(UserError, match="holds no index"):
        Index.open(tmp_path)
    with pytest.raises(UserError, match="holds no index"):  # someone's folder is not overwritten
        indexing.update(folder, folder, model, tmp_path)
    indexing.update(tmp_path / "i", folder, model, tmp_path)
    np.save(tmp_path / "i" / "embeddings.npy", np.zeros((2, 48), np.float32))
    with pytest.raises(UserError, match="damaged"):
        Index.open(tmp_path / "i")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no pictures"):
        indexing.update(tmp_path / "k", tmp_path / "empty", model, tmp_path)
