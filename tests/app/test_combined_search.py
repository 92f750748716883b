"""One query of several images, and of images that matches should not be like."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from universal_embedding.app.combined_search import UNLIKE_WEIGHT, search_combined
from universal_embedding.app.image_index import ImageIndex
from universal_embedding.errors import UserError


@pytest.fixture(scope="module")
def module_index(tmp_path_factory):
    from tests.helpers.image_folder import MeanColorModel, write_color_folder

    folder = write_color_folder(tmp_path_factory.mktemp("colors") / "images")
    return ImageIndex.build(MeanColorModel(), folder)


def naive(index, like, unlike, k, combine):
    """(position, distance) of every image, sorted, from the definition."""
    rows = index.embeddings.astype(np.float64)
    found = []
    for i, row in enumerate(rows):
        if i in like or i in unlike:
            continue
        if combine == "mean":
            query = rows[like].mean(0)
            if unlike:
                query = query - UNLIKE_WEIGHT * rows[unlike].mean(0)
            distance = np.linalg.norm(row - query / np.linalg.norm(query))
        else:
            distance = min(np.linalg.norm(row - rows[j]) for j in like)
            if unlike and distance > min(np.linalg.norm(row - rows[j]) for j in unlike):
                continue
        found.append((distance, i))
    return [(i, d) for d, i in sorted(found)][:k]


@settings(max_examples=40, deadline=None)
@given(st.data(), st.sampled_from(["mean", "best"]), st.integers(1, 12))
def test_matches_equal_naive_ones(module_index, data, combine, k):
    positions = data.draw(st.lists(st.integers(0, 11), min_size=2, max_size=5, unique=True))
    split = data.draw(st.integers(1, len(positions)))
    like, unlike = positions[:split], positions[split:]
    hits = search_combined(module_index, like, unlike, k, combine)
    expected = naive(module_index, like, unlike, k, combine)
    assert [hit.index for hit in hits] == [i for i, _ in expected]
    np.testing.assert_allclose([h.distance for h in hits], [d for _, d in expected], atol=1e-5)


def test_images_and_vectors_are_queries_too(module_index):
    path = module_index.image_path(0)
    from_path = search_combined(module_index, [path, 5], k=4)
    from_row = search_combined(module_index, [module_index.embeddings[0], 5], k=4)
    assert [hit.index for hit in from_path] == [hit.index for hit in from_row]
    alone = search_combined(module_index, [3], k=2)
    assert alone == module_index.search(3, k=2)


def test_impossible_queries_are_refused(module_index):
    with pytest.raises(UserError, match="at least one image"):
        search_combined(module_index, [])
    with pytest.raises(UserError, match="combine is 'sum'"):
        search_combined(module_index, [0, 1], combine="sum")
    row = module_index.embeddings[0]
    with pytest.raises(UserError, match="cancel one another"):
        search_combined(module_index, [row, -row])
    with pytest.raises(UserError, match="not all zero"):
        search_combined(module_index, [row, np.zeros_like(row)])
