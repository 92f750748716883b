import importlib.util

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_domains import continuous, grid

from universal_embedding.errors import UserError
from universal_embedding.retrieval import approximate, exact
from universal_embedding.retrieval.approximate import ScannTree
from universal_embedding.retrieval.duplicates import Duplicates
from universal_embedding.retrieval.exact import BlockedTopK, BruteForce

EXACT = [BruteForce, BlockedTopK]


def naive(queries, index, k, exclude):
    ids = np.full((len(queries), k), -1)
    for i, query in enumerate(queries):
        order = sorted(range(len(index)), key=lambda j: (-float(index[j] @ query), j))
        order = [j for j in order if j != exclude[i]][:k]
        ids[i, : len(order)] = order
    return ids


def search(kind, index, *query):
    neighbours = kind()
    neighbours.index(index)
    return neighbours.query(*query)


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("rows", [grid, continuous])
@pytest.mark.parametrize("size, dimension", [(1, 3), (7, 2), (300, 2), (300, 3), (200, 64)])
@pytest.mark.parametrize("k", [1, 5, 400])
def test_equals_the_naive_version(kind, rows, size, dimension, k, monkeypatch):
    monkeypatch.setattr(BlockedTopK, "rows_at_once", 64)
    monkeypatch.setattr(BlockedTopK, "queries_at_once", 16)
    rng = np.random.default_rng(size)
    index, queries = rows(rng, size, dimension), rows(rng, 40, dimension)
    exclude = rng.integers(-1, size, 40)
    ids, scores = search(kind, index, queries, k, exclude)
    expected = naive(queries, index, k, exclude)
    if rows is grid and dimension == 64:  # different rows of one score: any of them, beyond a few
        expected_scores = np.where(
            expected < 0, -np.inf, (queries[:, None] * index[expected]).sum(2)
        )
        np.testing.assert_allclose(scores, expected_scores, atol=1e-5)
        return
    np.testing.assert_array_equal(ids, expected)


@given(
    st.sampled_from(EXACT),
    st.integers(1, 60),
    st.integers(1, 3),
    st.integers(1, 70),
    st.integers(0, 2**32 - 1),
)
def test_any_ties_and_duplicates_come_in_the_order_of_their_ids(kind, size, dimension, k, seed):
    rng = np.random.default_rng(seed)
    index, queries = grid(rng, size, dimension), grid(rng, 5, dimension)
    exclude = rng.integers(-1, size, 5)
    ids, _ = search(kind, index, queries, k, exclude)
    np.testing.assert_array_equal(ids, naive(queries, index, k, exclude))


@pytest.mark.parametrize("kind", EXACT)
def test_collapsed_embeddings_tie_in_the_order_of_their_ids(kind):
    rows = np.ones((5000, 4), np.float32)
    ids, _ = search(kind, rows, rows[:2], 3, np.array([1, -1]))
    assert ids.tolist() == [[0, 2, 3], [0, 1, 2]]


@pytest.mark.parametrize("kind", EXACT)
def test_blocks_of_queries_change_nothing(kind, monkeypatch):
    rng = np.random.default_rng(0)
    index, queries = continuous(rng, 500, 16), continuous(rng, 100, 16)
    neighbours = kind()
    neighbours.index(index)
    whole = neighbours.query(queries, 7)
    monkeypatch.setattr("universal_embedding.retrieval.neighbours.BLOCK", 13)
    monkeypatch.setattr("universal_embedding.retrieval.neighbours._GATHERED", 500)
    parts = neighbours.query(queries, 7)
    np.testing.assert_array_equal(parts[0], whole[0])
    np.testing.assert_allclose(parts[1], whole[1], atol=1e-6)


def test_duplicates_are_grouped_also_when_hashes_collide(monkeypatch):
    rows = grid(np.random.default_rng(0), 100, 3)
    plain = Duplicates.of(rows)
    monkeypatch.setattr(
        "universal_embedding.retrieval.duplicates._hashes",
        lambda rows: np.zeros(len(rows), np.uint64),
    )
    for found in (plain, Duplicates.of(rows)):
        pairs = zip(found.splits[:-1], found.splits[1:], strict=True)
        groups = [found.members[a:b] for a, b in pairs]
        assert len(groups) == len(np.unique(rows, axis=0))
        assert all((rows[group] == rows[group[0]]).all() for group in groups)
        assert all((np.diff(group) > 0).all() for group in groups)
        assert [group[0] for group in groups] == sorted(group[0] for group in groups)
        assert sorted(found.members) == list(range(100))


@given(st.lists(st.lists(st.sampled_from([-1.0, -0.0, 0.0, 1.0]), min_size=2, max_size=2)))
def test_duplicates_of_any_rows(rows):
    found = Duplicates.of(np.array(rows, np.float32).reshape(-1, 2))
    expected = {}
    for i, row in enumerate(rows):
        expected.setdefault(tuple(row), []).append(i)  # -0.0 and 0.0 are one key
    groups = np.split(found.members, found.splits[1:-1]) if rows else []
    assert [group.tolist() for group in groups] == list(expected.values())


def test_zero_and_minus_zero_are_equal_rows():
    assert Duplicates.of(np.array([[0.0, 1], [-0.0, 1]], np.float32)).any


@pytest.fixture(scope="module")
def clustered():
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((2000, 32))
    rows = centres[rng.integers(0, 2000, 24_000)] + 0.5 * rng.standard_normal((24_000, 32))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def tree(clustered):
    made = ScannTree(recall=0.97)
    made.index(clustered[1000:])
    return made


def recall(found, true):
    return (true[:, :, None] == found[:, None, :]).any(2).mean()


def test_approximate_search_reaches_the_wished_recall(clustered, tree):
    queries = clustered[:1000]
    truth = BruteForce()
    truth.index(clustered[1000:])
    assert not tree.is_exact
    assert tree.settings.leaves_to_search < tree.settings.leaves / 2
    assert recall(tree.query(queries, 5)[0], truth.query(queries, 5)[0]) > 0.96


def test_approximate_search_leaves_the_excluded_out(clustered, tree):
    ids, scores = tree.query(clustered[1000:1500], 5, np.arange(500))
    assert not (ids == np.arange(500)[:, None]).any()
    assert (np.diff(scores, axis=1) <= 0).all()


@pytest.mark.parametrize("kind", ["tree", BruteForce, BlockedTopK])
def test_saved_index_finds_the_same(kind, clustered, tree, tmp_path):
    neighbours = tree
    if kind != "tree":
        neighbours = kind()
        neighbours.index(np.concatenate([clustered[:50], clustered[:20]]))
    neighbours.save(tmp_path / "before")
    (tmp_path / "before").rename(tmp_path / "moved")
    loaded = type(neighbours).load(tmp_path / "moved")
    for found, expected in zip(
        loaded.query(clustered[:99], 4), neighbours.query(clustered[:99], 4), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    assert loaded.is_exact == neighbours.is_exact


def test_folder_without_an_index_is_a_named_error(tmp_path):
    with pytest.raises(UserError, match="holds no saved index"):
        BruteForce.load(tmp_path)
    made = BlockedTopK()
    made.index(np.eye(3, dtype=np.float32))
    made.save(tmp_path)
    with pytest.raises(UserError, match="an index of BlockedTopK, not BruteForce"):
        BruteForce.load(tmp_path)


def test_small_index_is_searched_exactly():
    neighbours = ScannTree()
    neighbours.index(np.eye(5, dtype=np.float32))
    assert neighbours.is_exact
    assert neighbours.query(np.eye(5, dtype=np.float32)[:2], 1)[0].tolist() == [[0], [1]]


def test_without_scann_exact_search_falls_back_and_approximate_says_what_to_do(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "scann" else find(name)
    )
    assert isinstance(exact.exact(), BlockedTopK)
    with pytest.raises(UserError, match="needs ScaNN, which is not installed"):
        approximate.ScannTree()


def test_recall_outside_its_range_is_an_error():
    with pytest.raises(UserError, match="recall is 99"):
        ScannTree(99)
