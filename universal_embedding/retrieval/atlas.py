"""A map of the embedding in two dimensions: t-SNE (van der Maaten and Hinton 2008)."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from universal_embedding.retrieval.gallery import DomainEmbeddings


@dataclass(frozen=True)
class Atlas:
    """Pictures and where they lie.

    Attributes:
        places: `[P, 2]` float32.
        domains: `[P]` int, position of the picture's domain among the given keys.
        records: `[P]` int, its number among the domain's queries.
    """

    places: np.ndarray
    domains: np.ndarray
    records: np.ndarray


def draw(domains: Mapping[str, DomainEmbeddings], most: int = 1600, seed: int = 0) -> Atlas:
    """Lays out at most `most` queries, equally many of each domain as far as there are."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    rng = np.random.default_rng(seed)
    share = max(1, most // len(domains))
    rows, of_domain, records = [], [], []
    for number, domain in enumerate(domains.values()):
        some = np.sort(rng.permutation(len(domain.query))[:share])
        rows.append(domain.query[some])
        of_domain += [number] * len(some)
        records += some.tolist()
    rows = np.concatenate(rows)
    if len(rows) < 5:  # nothing to lay out
        places = np.pad(rows, ((0, 0), (0, 2)))[:, :2]
    else:
        perplexity = min(30, (len(rows) - 1) / 3)
        layout = TSNE(perplexity=perplexity, init="pca", random_state=seed)
        with threadpool_limits(1):  # its threads spin: 10 times slower where cores are busy
            places = layout.fit_transform(_few_columns(rows))
    return Atlas(places, np.array(of_domain), np.array(records))


def _few_columns(rows: np.ndarray, most: int = 50) -> np.ndarray:
    """The principal components, as the paper does before t-SNE."""
    from sklearn.decomposition import PCA

    most = min(most, *rows.shape)
    return rows if rows.shape[1] <= most else PCA(most, random_state=0).fit_transform(rows)
