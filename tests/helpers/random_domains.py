"""Small embeddings on a grid, so that scores are exact and ties are frequent."""

import numpy as np

from universal_embedding.datasets.examples import Labels
from universal_embedding.evaluation.embeddings import DomainEmbeddings


def grid(rng, rows, dimension=8):
    """`[rows, dimension]` of -1, 0, 1: dot products are whole numbers, many rows are equal."""
    return rng.integers(-1, 2, (rows, dimension)).astype(np.float32)


def unit_grid(rng, rows, dimension=8):
    """Rows of four entries -1/2 or 1/2: unit length and dot products are exact, ties frequent."""
    x = np.zeros((rows, dimension), np.float32)
    for row in x:
        row[rng.permutation(dimension)[:4]] = rng.choice([-0.5, 0.5], 4)
    return x


def continuous(rng, rows, dimension):
    """Unit rows without ties, but for a tenth of them that occur twice."""
    x = rng.standard_normal((rows, dimension)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    repeated = rng.integers(0, rows, rows // 10)
    x[rng.integers(0, rows, len(repeated))] = x[repeated]
    return x


def random_labels(rng, rows, num_classes, max_labels=1):
    return Labels.from_rows(
        [
            rng.integers(0, num_classes, rng.integers(1, max_labels + 1)).tolist()
            for _ in range(rows)
        ]
    )


def random_domains(seed, sizes, num_classes=5, dimension=8, max_labels=1, embeddings=grid):
    """Domains of `sizes` `{key: (queries, index or None)}`."""
    rng = np.random.default_rng(seed)
    domains = {}
    for key, (num_queries, index_size) in sizes.items():
        index = (None, None)
        if index_size is not None:
            index = (
                embeddings(rng, index_size, dimension),
                random_labels(rng, index_size, num_classes, max_labels),
            )
        domains[key] = DomainEmbeddings(
            embeddings(rng, num_queries, dimension),
            random_labels(rng, num_queries, num_classes, max_labels),
            *index,
        )
    return domains
