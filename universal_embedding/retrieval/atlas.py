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


def draw(domains: Mapping[str, DomainEmbeddings], most: int = 2400, seed: int = 0) -> Atlas:
    """Lays out at most `most` queries, equally many of each domain as far as there are."""
    from sklearn.manifold import TSNE

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
        places = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(rows)
    return Atlas(places, np.array(of_domain), np.array(records))
