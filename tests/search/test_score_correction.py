import numpy as np
import pytest

from universal_embedding.search.exact import BlockedTopK, BruteForce
from universal_embedding.search.score_correction import (
    bank_similarity,
    correct_index,
    correct_queries,
)


@pytest.mark.parametrize("search_class", [BruteForce, BlockedTopK])
def test_scores_equal_the_definition(search_class):
    rng = np.random.default_rng(0)
    index, queries, bank = (rng.standard_normal((n, 8), np.float32) for n in (60, 20, 40))
    search = search_class()
    search.index(correct_index(index, bank, num_neighbors=3))
    ids, scores = search.query(correct_queries(queries), 5, np.arange(20))
    expected = np.empty((20, 60))
    for q in range(20):
        for i in range(60):
            nearest = sorted((float(index[i] @ b) for b in bank), reverse=True)[:3]
            expected[q, i] = queries[q] @ index[i] - sum(nearest) / 6
        expected[q, q] = -np.inf
    best = np.argsort(-expected, 1)[:, :5]
    np.testing.assert_array_equal(ids, best)
    np.testing.assert_allclose(scores, np.take_along_axis(expected, best, 1), atol=1e-4)


def test_hub_loses_its_rank():
    # the hub resembles everything, and so the bank; the true match is a little less similar
    index = np.array([[0.7071, 0.7071, 0], [0, 0.69, 0.7238]], np.float32)
    bank = np.array([[1, 0, 0], [0.8, 0.6, 0]], np.float32)
    query = np.array([[0, 1, 0]], np.float32)
    assert np.argsort(-(index @ query[0])).tolist() == [0, 1]
    corrected = correct_index(index, bank) @ correct_queries(query)[0]
    assert np.argsort(-corrected).tolist() == [1, 0]


def test_bank_similarity_separates_an_unknown_query_from_a_known_one():
    bank = np.eye(4, dtype=np.float32)
    rows = np.array([[1, 0, 0, 0], [0.5, 0.5, 0.5, 0.5]], np.float32)
    np.testing.assert_allclose(bank_similarity(rows, bank, num_neighbors=1), [1, 0.5])
