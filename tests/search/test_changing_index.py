"""Indexes whose rows change, against naive searches and against indexes built anew."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.random_domains import continuous, grid
from universal_embedding.errors import UserError
from universal_embedding.search.exact import BlockedTopK, BruteForce
from universal_embedding.search.neighbors import recall
from universal_embedding.search.scann_index import ScannIndex


def naive_neighbors(queries, rows, k):
    """Best ids of `rows`, a dict of rows by id; -1 where there are fewer than k."""
    found = np.full((len(queries), k), -1)
    for i, query in enumerate(queries):
        order = sorted(rows, key=lambda j: (-float(rows[j] @ query), j))[:k]
        found[i, : len(order)] = order
    return found


@given(
    st.sampled_from([BruteForce, BlockedTopK, ScannIndex]),
    st.lists(st.tuples(st.booleans(), st.integers(1, 9)), max_size=6),
    st.integers(1, 30),
    st.integers(0, 2**32 - 1),
)
def test_changed_index_equals_naive_search(search_class, changes, size, seed):
    rng = np.random.default_rng(seed)
    first = grid(rng, size, 2)  # a grid of few points: many rows are equal
    before = first.copy()
    search = search_class()
    search.index(first)
    rows, next_id = dict(enumerate(first)), size
    for is_addition, count in changes:
        if is_addition:
            new = grid(rng, count, 2)
            ids = search.add(new)
            assert ids.tolist() == list(range(next_id, next_id + count))
            rows |= dict(zip(ids.tolist(), new, strict=True))
            next_id += count
        else:
            ids = rng.permutation(list(rows))[:count]
            search.remove(ids)
            for i in ids:
                del rows[i]
        assert len(search) == len(rows)
        queries = grid(rng, 4, 2)
        found, scores = search.query(queries, 7)
        np.testing.assert_array_equal(found, naive_neighbors(queries, rows, 7))
        assert (np.isneginf(scores) == (found < 0)).all()
    np.testing.assert_array_equal(first, before)  # the caller's array is the caller's


@pytest.fixture(scope="module")
def clustered():
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((2000, 32))
    rows = centers[rng.integers(0, 2000, 27_000)] + 0.5 * rng.standard_normal((27_000, 32))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_changed_tree_has_the_recall_of_a_new_one(clustered, tmp_path):
    queries, first, new = np.split(clustered, [1000, 24_600])
    search, rebuilt, exact = ScannIndex(0.97), ScannIndex(0.97), BruteForce()
    search.index(first)
    removed = np.random.default_rng(1).permutation(len(first))[: len(new)]  # 10 %
    search.remove(removed)
    added = search.add(new)
    rows = np.concatenate([np.delete(first, removed, 0), new])
    ids = np.concatenate([np.delete(np.arange(len(first)), removed), added])
    exact.index(rows)
    rebuilt.index(rows)
    truth, _ = exact.query(queries, 5)
    found, _ = search.query(queries, 5)
    assert not np.isin(found, removed).any()
    recall_of_rebuilt = recall(rebuilt.query(queries, 5)[0], truth)
    assert recall(found, ids[truth]) >= recall_of_rebuilt - 0.01
    found_new, scores = search.query(new, 1)
    assert (found_new[:, 0] == added).mean() > 0.99
    np.testing.assert_allclose(scores, 1, atol=0.05)

    search.save(tmp_path)
    loaded = ScannIndex.load(tmp_path)
    np.testing.assert_array_equal(loaded.query(queries, 5)[0], found)
    for changed in (search, loaded):
        changed.remove(added[:50])
        assert changed.add(new[:50]).tolist() == list(range(added[-1] + 1, added[-1] + 51))
    np.testing.assert_array_equal(loaded.query(queries, 5)[0], search.query(queries, 5)[0])


def test_one_row_is_added_to_a_tree_and_removed_in_milliseconds(clustered):
    search = ScannIndex(0.9)
    search.index(clustered[:-50])
    search.remove(search.add(clustered[-50:-49]))
    times = []
    for row in clustered[-49:]:
        start = time.perf_counter()
        (row_id,) = search.add(row[None])
        times.append(time.perf_counter() - start)
        assert search.query(row[None], 1)[0].tolist() == [[row_id]]
    assert np.median(times) < 0.02


def test_tree_is_made_when_the_index_outgrows_exact_search(clustered):
    search = ScannIndex(0.9)
    search.index(clustered[:19_000])
    assert search.is_exact
    search.add(clustered[19_000:])
    assert not search.is_exact
    leaves = search.config.leaves
    search.add(clustered[:10] + 1)
    assert search.config.leaves == leaves


def test_removing_an_unknown_row_raises_user_error():
    search = BruteForce()
    search.index(np.eye(3, dtype=np.float32))
    search.remove([1])
    for ids in ([1], [3], [-1], [0, 7]):
        with pytest.raises(UserError, match=f"the index has no row {ids[-1]}"):
            search.remove(ids)
    with pytest.raises(UserError, match="named twice"):
        search.remove([0, 0])
    assert len(search) == 2
    search.remove([0, 2])
    assert search.query(np.eye(3, dtype=np.float32), 2)[0].tolist() == [[-1, -1]] * 3
    assert search.add(np.eye(3, dtype=np.float32)[:1]).tolist() == [3]
    assert search.query(np.eye(3, dtype=np.float32)[:1], 2)[0].tolist() == [[3, -1]]


@pytest.mark.parametrize("dtype, tolerance", [("bfloat16", 2**-8), ("int8", 1 / 127)])
def test_smaller_rows_find_nearly_the_same_and_survive_saving(
    dtype, tolerance, clustered, tmp_path
):
    queries, rows = clustered[:500], clustered[500:]
    exact, search = BruteForce(), ScannIndex(0.99, dtype)
    exact.index(rows)
    search.index(rows)
    truth, true_scores = exact.query(queries, 5)
    found, scores = search.query(queries, 5)
    assert recall(found, truth) > 0.95
    is_same = found[:, 0] == truth[:, 0]
    np.testing.assert_allclose(scores[is_same, 0], true_scores[is_same, 0], atol=2 * tolerance)
    search.save(tmp_path)
    assert (tmp_path / "rows.npy").stat().st_size < rows.nbytes * 0.51
    loaded = ScannIndex.load(tmp_path)
    assert loaded.dtype == dtype
    for result, expected in zip(loaded.query(queries, 5), (found, scores), strict=True):
        np.testing.assert_array_equal(result, expected)
    (row_id,) = loaded.add(continuous(np.random.default_rng(1), 1, 32))
    loaded.remove([int(row_id), 3])
    assert not (loaded.query(queries, 5)[0] == 3).any()


def test_unknown_row_format_raises_user_error():
    with pytest.raises(UserError, match="dtype is 'int4'; rows are held as float32"):
        ScannIndex(dtype="int4")
