"""Small embeddings on a grid, so that scores are exact and ties are frequent."""

import numpy as np

from universal_embedding.datasets.labels import Labels
from universal_embedding.retrieval.gallery import DomainEmbeddings


def grid(rng, rows, dimension=8):
    """`[rows, dimension]` of -1, 0, 1: dot products are whole numbers, many rows are equal."""
    return rng.integers(-1, 2, (rows, dimension)).astype(np.float32)


def labels(rng, rows, classes, most=1):
    return Labels.of(
        [rng.integers(0, classes, rng.integers(1, most + 1)).tolist() for _ in range(rows)]
    )


def domains(seed, sizes, classes=5, dimension=8, most=1, embeddings=grid):
    """Domains of `sizes` `{key: (queries, index or None)}`."""
    rng = np.random.default_rng(seed)
    made = {}
    for key, (queries, index) in sizes.items():
        own = (None, None)
        if index is not None:
            own = (embeddings(rng, index, dimension), labels(rng, index, classes, most))
        made[key] = DomainEmbeddings(
            embeddings(rng, queries, dimension), labels(rng, queries, classes, most), *own
        )
    return made


def continuous(rng, rows, dimension):
    """Unit rows, no ties; a tenth of them stand twice."""
    x = rng.standard_normal((rows, dimension)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    twice = rng.integers(0, rows, rows // 10)
    x[rng.integers(0, rows, len(twice))] = x[twice]
    return x
