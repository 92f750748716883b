"""Searching an index: against a naive search, its refusals, and the public methods."""

import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.image_folder import draw_color
from universal_embedding.app.image_index import ImageIndex
from universal_embedding.app.index_files import IndexFiles, find_category
from universal_embedding.errors import UserError


def naive_search(rows, query, exclude=None):
    """(distance, index) of every other image, nearest first."""
    pairs = []
    for index, row in enumerate(rows):
        if index != exclude:
            squares = sum((float(a) - float(b)) ** 2 for a, b in zip(row, query, strict=True))
            pairs.append((squares**0.5, index))
    return sorted(pairs)


def test_search_equals_the_naive_search(index):
    for color in ("red", "green"):
        query = index.encode(draw_color(color, 55))
        hits = index.search(query, 12)
        distances, indices = zip(*naive_search(index.embeddings, query), strict=True)
        assert [hit.index for hit in hits] == list(indices)
        np.testing.assert_allclose([hit.distance for hit in hits], distances, atol=1e-6)
        cosine = index.search(query, 12, "cosine")
        assert [hit.index for hit in cosine] == list(indices)
        expected = 1 - index.embeddings[list(indices)] @ query
        np.testing.assert_allclose([hit.distance for hit in cosine], expected, atol=1e-6)


def test_paths_bytes_images_and_arrays_are_the_same_query(index, folder):
    path = folder / "red" / "2.png"
    image = Image.open(path)
    queries = (path, str(path), path.read_bytes(), image, np.asarray(image), index.encode(path))
    for query in queries:
        hits = index.search(query, 3)
        assert hits[0].name == "red/2.png" and hits[0].distance == 0
        assert hits == index.search(path, 3)


def test_an_image_of_the_index_is_not_among_its_own_matches(index):
    rows = index.embeddings
    for query in range(12):
        hits = index.search(query, 12)
        expected = [i for _, i in naive_search(rows, rows[query], query)]
        assert [hit.index for hit in hits] == expected
        blue = index.search(query, 12, category="blue")
        assert {hit.index for hit in blue} == set(range(4)) - {query}


def test_category_and_max_distance_limit_the_matches(index):
    distances = [hit.distance for hit in index.search(0, 11)]
    limit = distances[3]
    assert [h.distance for h in index.search(0, 11, max_distance=limit)] == distances[:4]
    assert index.search(0, 11, max_distance=0.0) == []
    assert {hit.category for hit in index.search(0, 11, category="red")} == {"red"}
    with pytest.raises(UserError, match="no category 'gray' in the index"):
        index.search(0, category="gray")
    with pytest.raises(UserError, match="metric is 'taxicab'"):
        index.search(0, metric="taxicab")


def test_a_large_index_is_searched_by_a_tree(model, tmp_path):
    rows = np.random.default_rng(0).normal(size=(25_000, 16)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    names = [f"{i % 2}/{i}.png" for i in range(len(rows))]
    stamps = [(0, 0)] * len(rows)
    files = IndexFiles(tmp_path, model.name, model.fingerprint, names, stamps, rows)
    index = ImageIndex(files, model, exact_search_below=20_000)
    assert not index.is_exact
    recall = float(index.describe_approximation().split("recall@5 ")[1].split()[0])
    assert recall > 0.97
    best = np.argsort(-(rows[1::2] @ rows[7]))[1:4] * 2 + 1
    hits = index.search(7, 3, category="1")  # half of it: below 20,000, so exact
    assert [hit.index for hit in hits] == best.tolist()


def test_add_and_remove_equal_a_new_index(index, model, folder):
    draw_color("green", 77).save(folder / "green" / "new.png")
    draw_color("blue", 78).save(folder / "red" / "0.png")
    index.add(["green/new.png", folder / "red" / "0.png"])
    fresh = ImageIndex.build(model, folder)
    assert index.names == fresh.names
    np.testing.assert_array_equal(index.embeddings, fresh.embeddings)
    index.remove(["green/new.png"])
    assert "green/new.png" not in index.names and len(index) == 12
    assert len(index.search(folder / "green" / "new.png", 20)) == 12
    with pytest.raises(UserError, match="not in the index"):
        index.remove(["green/new.png"])
    with pytest.raises(UserError, match="outside"):
        index.add([folder.parent / "elsewhere.png"])
    (folder / "red" / "bad.png").write_bytes(b"bad")
    with pytest.raises(UserError, match=r"red/bad\.png cannot be added"):
        index.add(["red/bad.png"])
    assert len(index) == 12


def test_a_loaded_index_equals_the_saved_one(index, model, other_model, tmp_path, folder):
    index.save(tmp_path / "saved")
    loaded = ImageIndex.load(tmp_path / "saved", model)
    assert loaded.names == index.names and repr(loaded) == repr(index)
    np.testing.assert_array_equal(loaded.embeddings, index.embeddings)
    assert loaded.search(folder / "red" / "0.png") == index.search(folder / "red" / "0.png")
    without_model = ImageIndex.load(tmp_path / "saved")
    assert without_model.search(3) == index.search(3)  # needs no model
    with pytest.raises(UserError, match="model"):
        without_model.search(folder / "red" / "0.png")  # `model` names none that can be opened
    with pytest.raises(UserError, match="did not make this index"):
        ImageIndex.load(tmp_path / "saved", other_model)


def test_category_is_the_first_folder():
    assert find_category("red/a/0.png") == "red" and find_category("loose.JPG") == ""


def test_a_searched_index_follows_additions_and_removals(index, folder, model):
    index.search(0, 3)  # builds the search
    draw_color("red", 99).save(folder / "green" / "00.png")
    draw_color("blue", 98).save(folder / "green" / "1.png")
    index.add(["green/00.png", "green/1.png"])
    index.remove(["blue/2.png", "red/0.png"])
    rebuilt = ImageIndex.build(model, folder)
    rebuilt.remove(["blue/2.png", "red/0.png"])
    assert index.names == rebuilt.names == sorted(rebuilt.names)
    np.testing.assert_array_equal(index.embeddings, rebuilt.embeddings)
    for query in range(len(index)):
        assert index.search(query, 20) == rebuilt.search(query, 20)
        assert index.search(query, 20, category="green") == rebuilt.search(
            query, 20, category="green"
        )


def test_adding_an_image_to_a_large_index_takes_milliseconds(model, folder):
    rows = np.random.default_rng(0).normal(size=(100_000, 48)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    names = [f"z/{i:06}.png" for i in range(len(rows))]
    files = IndexFiles(folder, model.name, model.fingerprint, names, [(0, 0)] * len(rows), rows)
    index = ImageIndex(files, model)
    index.search(0, 3)
    index.add(["red/0.png"])
    start = time.perf_counter()
    index.add(["red/1.png"])
    seconds = time.perf_counter() - start
    assert index.search(folder / "red" / "1.png", 1)[0].name == "red/1.png"
    assert seconds < 0.25


def test_many_and_long_categories_cost_what_they_hold():
    names = [f"c{i:04}/x.png" for i in range(999)] + ["long" * 60 + "/x.png"]
    stamps = [(0, 0, 0)] * 1000
    rows = np.eye(1000, dtype=np.float32)
    index = ImageIndex(IndexFiles(Path(), "m", "f", names, stamps, rows))
    assert index.categories.nbytes == 8 * 1000 and index.categories[-1] == "long" * 60
    with pytest.raises(UserError, match=r"'c0019' and 980 more$"):
        index.search(0, category="none" * 1000)
    with pytest.raises(UserError) as error:
        index.search(0, category="none" * 1000)
    assert len(str(error.value)) < 500
