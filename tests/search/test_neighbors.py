import importlib.util

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.random_domains import continuous, grid
from universal_embedding.errors import UserError
from universal_embedding.search import index_rows, neighbors, rescored, scann_ops
from universal_embedding.search.exact import BlockedTopK, BruteForce, exact_search
from universal_embedding.search.scann_index import ScannIndex

EXACT = [BruteForce, BlockedTopK]


def naive_neighbors(queries, index, k, exclude):
    ids = np.full((len(queries), k), -1)
    for i, query in enumerate(queries):
        order = sorted(range(len(index)), key=lambda j: (-float(index[j] @ query), j))
        order = [j for j in order if j != exclude[i]][:k]
        ids[i, : len(order)] = order
    return ids


def run_search(search_class, index, *query):
    search = search_class()
    search.index(index)
    return search.query(*query)


@pytest.mark.parametrize("search_class", EXACT)
@pytest.mark.parametrize("rows", [grid, continuous])
@pytest.mark.parametrize("size, dimension", [(1, 3), (7, 2), (300, 2), (300, 3), (200, 64)])
@pytest.mark.parametrize("k", [1, 5, 400])
def test_exact_search_equals_naive_search(search_class, rows, size, dimension, k, monkeypatch):
    monkeypatch.setattr(BlockedTopK, "index_block_size", 64)
    monkeypatch.setattr(BlockedTopK, "query_block_size", 16)
    rng = np.random.default_rng(size)
    index, queries = rows(rng, size, dimension), rows(rng, 40, dimension)
    exclude = rng.integers(-1, size, 40)
    ids, scores = run_search(search_class, index, queries, k, exclude)
    expected = naive_neighbors(queries, index, k, exclude)
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
def test_ties_and_duplicates_are_ordered_by_id(search_class, size, dimension, k, seed):
    rng = np.random.default_rng(seed)
    index, queries = grid(rng, size, dimension), grid(rng, 5, dimension)
    exclude = rng.integers(-1, size, 5)
    ids, _ = run_search(search_class, index, queries, k, exclude)
    np.testing.assert_array_equal(ids, naive_neighbors(queries, index, k, exclude))


@pytest.mark.parametrize("search_class", EXACT)
def test_collapsed_embeddings_are_ordered_by_id(search_class):
    rows = np.ones((5000, 4), np.float32)
    ids, _ = run_search(search_class, rows, rows[:2], 3, np.array([1, -1]))
    assert ids.tolist() == [[0, 2, 3], [0, 1, 2]]


@pytest.mark.parametrize("search_class", EXACT)
def test_result_does_not_depend_on_query_blocks(search_class, monkeypatch):
    rng = np.random.default_rng(0)
    index, queries = continuous(rng, 500, 16), continuous(rng, 100, 16)
    search = search_class()
    search.index(index)
    whole_ids, whole_scores = search.query(queries, 7)
    monkeypatch.setattr(rescored, "QUERY_BLOCK", 13)
    monkeypatch.setattr(rescored, "MAX_GATHERED_FLOATS", 500)
    ids, scores = search.query(queries, 7)
    np.testing.assert_array_equal(ids, whole_ids)
    np.testing.assert_allclose(scores, whole_scores, atol=1e-6)


def test_exact_neighbors_do_not_depend_on_row_blocks(monkeypatch):
    monkeypatch.setattr(scann_ops, "_ROW_BLOCK", 7)
    rng = np.random.default_rng(0)
    for size in (3, 7, 50):
        rows, queries = continuous(rng, size, 8), continuous(rng, 20, 8)
        expected = naive_neighbors(queries, rows, 5, np.full(20, -1))
        np.testing.assert_array_equal(scann_ops.search_exactly(rows, queries, 5), expected)


def test_equal_rows_are_grouped_when_hashes_collide(monkeypatch):
    rows = grid(np.random.default_rng(0), 100, 3)
    without_collisions = index_rows.group_equal_rows(rows)
    monkeypatch.setattr(index_rows, "row_hashes", lambda rows: np.zeros(len(rows), np.uint64))
    np.testing.assert_array_equal(index_rows.group_equal_rows(rows), without_collisions)


@given(st.lists(st.lists(st.sampled_from([-1.0, -0.0, 0.0, 1.0]), min_size=2, max_size=2)))
def test_groups_of_equal_rows_equal_naive_groups(rows):
    positions = index_rows.group_equal_rows(np.array(rows, np.float32).reshape(-1, 2))
    expected = {}
    for i, row in enumerate(rows):
        expected.setdefault(tuple(row), []).append(i)  # -0.0 and 0.0 are one key
    groups = index_rows.DuplicateGroups.from_positions(positions, len(expected))
    members = np.split(groups.members, groups.splits[1:-1]) if rows else []
    assert [group.tolist() for group in members] == list(expected.values())
    assert groups.has_duplicates == (len(expected) < len(rows))


@pytest.fixture(scope="module")
def clustered():
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((2000, 32))
    rows = centers[rng.integers(0, 2000, 24_000)] + 0.5 * rng.standard_normal((24_000, 32))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def tree(clustered):
    tree = ScannIndex(target_recall=0.97)
    tree.index(clustered[1000:])
    return tree


def naive_recall(ids, truth):
    return (truth[:, :, None] == ids[:, None, :]).any(2).mean()


def test_scann_index_reaches_its_target_recall(clustered, tree):
    queries = clustered[:1000]
    exact = BruteForce()
    exact.index(clustered[1000:])
    assert not tree.is_exact
    assert tree.config.leaves_to_search < tree.config.leaves / 2
    assert naive_recall(tree.query(queries, 5)[0], exact.query(queries, 5)[0]) > 0.96


def test_scann_index_leaves_out_excluded_ids(clustered, tree):
    ids, scores = tree.query(clustered[1000:1500], 5, np.arange(500))
    assert not (ids == np.arange(500)[:, None]).any()
    assert (np.diff(scores, axis=1) <= 0).all()


def test_recall_speed_curve_restores_the_tuned_config(clustered, tree):
    config = tree.config
    exact = BruteForce()
    exact.index(clustered[1000:])
    truth, _ = exact.query(clustered[:200], 5)
    curve = tree.recall_speed_curve(clustered[:200], truth)
    assert tree.config == config
    selected = [point for point in curve if point["selected"]]
    assert [point["leaves_to_search"] for point in selected] == [config.leaves_to_search]
    ids, _ = tree.query(clustered[:200], 5)
    assert selected[0]["recall_at_5"] == neighbors.recall(ids, truth) == naive_recall(ids, truth)
    assert exact.recall_speed_curve(clustered[:200], truth) == []


@pytest.mark.parametrize("search_class", [ScannIndex, BruteForce, BlockedTopK])
def test_saved_index_finds_the_same_when_moved_and_loaded(search_class, clustered, tree, tmp_path):
    search = tree
    if search_class is not ScannIndex:
        search = search_class()
        search.index(np.concatenate([clustered[:50], clustered[:20]]))
    search.save(tmp_path / "before")
    (tmp_path / "before").rename(tmp_path / "moved")
    loaded = type(search).load(tmp_path / "moved")
    for result, expected in zip(
        loaded.query(clustered[:99], 4), search.query(clustered[:99], 4), strict=True
    ):
        np.testing.assert_array_equal(result, expected)
    assert loaded.is_exact == search.is_exact


def test_load_raises_user_error_without_an_index_or_of_another_class(tmp_path):
    with pytest.raises(UserError, match="holds no saved index"):
        BruteForce.load(tmp_path)
    search = BlockedTopK()
    search.index(np.eye(3, dtype=np.float32))
    search.save(tmp_path)
    with pytest.raises(UserError, match="an index of BlockedTopK, not BruteForce"):
        BruteForce.load(tmp_path)
    (tmp_path / "index.json").write_text("{}")
    with pytest.raises(UserError, match="holds no saved index"):
        BlockedTopK.load(tmp_path)


def test_scann_index_is_exact_when_the_index_is_small():
    search = ScannIndex()
    search.index(np.eye(5, dtype=np.float32))
    assert search.is_exact
    assert search.query(np.eye(5, dtype=np.float32)[:2], 1)[0].tolist() == [[0], [1]]


def test_without_scann_exact_search_falls_back_and_scann_index_raises(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "scann" else find(name)
    )
    assert isinstance(exact_search(), BlockedTopK)
    with pytest.raises(UserError, match="needs ScaNN, which is not installed"):
        ScannIndex()


def test_target_recall_out_of_range_raises_user_error():
    with pytest.raises(UserError, match="target_recall is 99"):
        ScannIndex(99)


def test_blocked_search_multiplies_in_float32_and_leaves_the_setting_as_it_was(monkeypatch):
    settings = tf.config.experimental
    before, during = settings.tensor_float_32_execution_enabled(), []
    matmul = tf.matmul

    def spy(*args, **kwargs):
        during.append(settings.tensor_float_32_execution_enabled())
        return matmul(*args, **kwargs)

    monkeypatch.setattr(tf, "matmul", spy)
    try:
        settings.enable_tensor_float_32_execution(True)
        rows = np.eye(4, dtype=np.float32)
        ids, _ = run_search(BlockedTopK, rows, rows, 1)
        assert settings.tensor_float_32_execution_enabled()
    finally:
        settings.enable_tensor_float_32_execution(before)
    assert during and not any(during)
    np.testing.assert_array_equal(ids[:, 0], range(4))
