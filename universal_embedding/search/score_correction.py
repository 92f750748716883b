"""Index-side score correction: rows that resemble many images of a bank lose score.

The corrected score of a row x is q.x - r(x) / 2, where r(x) is its mean similarity to its nearest
images of a bank of other images: CSLS (arXiv 1710.04087) without its query term, which changes no
ranking. It is a dot product of rows with one more coordinate, [x, -r(x) / 2] and [q, 1], so any
search computes it.
"""

import numpy as np

from universal_embedding.search.exact import exact_search

NUM_BANK_NEIGHBORS = 10


def bank_similarity(
    embeddings: np.ndarray, bank: np.ndarray, num_neighbors: int = NUM_BANK_NEIGHBORS
) -> np.ndarray:
    """Mean similarity of each row to its nearest images of a bank.

    Subtracted from the similarities of a query, it makes one threshold fit more queries; their
    order stays.

    Args:
        embeddings: `[N, D]` float32 unit rows.
        bank: `[B, D]` float32 unit rows, such as embeddings of training images; never of queries.
        num_neighbors: Number of images of the bank in the mean.

    Returns:
        `[N]` float32.
    """
    search = exact_search()
    search.index(bank)
    _, scores = search.query(embeddings, min(num_neighbors, len(bank)))
    return scores.mean(1)


def correct_index(
    embeddings: np.ndarray, bank: np.ndarray, num_neighbors: int = NUM_BANK_NEIGHBORS
) -> np.ndarray:
    """The rows of an index with the correction as another coordinate: `[N, D + 1]` float32."""
    resemblance = bank_similarity(embeddings, bank, num_neighbors)
    return np.concatenate([embeddings, -resemblance[:, None] / 2], 1, dtype=np.float32)


def correct_queries(embeddings: np.ndarray) -> np.ndarray:
    """Queries to an index that `correct_index` made: `[Q, D + 1]` float32."""
    ones = np.ones((len(embeddings), 1))
    return np.concatenate([embeddings, ones], 1, dtype=np.float32)
