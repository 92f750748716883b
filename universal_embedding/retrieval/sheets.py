"""Which queries to look at, and their pictures."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from universal_embedding.retrieval.gallery import DomainEmbeddings
from universal_embedding.retrieval.protocol import Results
from universal_embedding.retrieval.sources import Pair


@dataclass(frozen=True)
class Shown:
    """One picture of a sheet: whose it is, how similar to the query, and whether it is right."""

    domain: str
    record: int
    score: float = 1.0
    right: bool = True


@dataclass(frozen=True)
class Row:
    """A query, its neighbours, and the most similar picture that would have been right."""

    query: Shown
    neighbours: tuple[Shown, ...]
    best_right: Shown


def worst_failures(
    key: str, domains: Mapping[str, DomainEmbeddings], results: Results, most: int
) -> list[Row]:
    """Queries of `key` whose first neighbour is wrong: first those with the fewest right ones,
    among them those whose first neighbour is the most similar.
    """
    result = results.domains[key]
    wrong = np.flatnonzero((result.counts > 0) & ~result.relevant[:, 0])
    right_ones = result.relevant[wrong].sum(1)
    order = np.lexsort((wrong, -result.scores[wrong, 0], right_ones))
    return [_row(key, int(i), domains, results) for i in wrong[order[:most]]]


def drawn(
    key: str, domains: Mapping[str, DomainEmbeddings], results: Results, most: int
) -> list[Row]:
    """Queries of `key` drawn at random, as they come."""
    counted = np.flatnonzero(results.domains[key].counts > 0)
    some = np.random.default_rng(0).permutation(counted)[:most]
    return [_row(key, int(i), domains, results) for i in some]


def _row(key: str, query: int, domains: Mapping[str, DomainEmbeddings], results: Results) -> Row:
    keys, result, domain = sorted(domains), results.domains[key], domains[key]
    neighbours = tuple(
        Shown(keys[number], int(record), float(score), bool(right))
        for number, record, score, right in zip(
            result.domains[query],
            result.neighbours[query],
            result.scores[query],
            result.relevant[query],
            strict=True,
        )
        if record >= 0
    )
    rows, labels = domain.searched
    fit = labels.rows[np.isin(labels.values, domain.query_labels[query])]
    fit = np.unique(fit[fit != domain.own[query]])
    scores = rows[fit] @ domain.query[query]
    best = int(np.argmax(scores))
    return Row(Shown(key, query), neighbours, Shown(key, int(fit[best]), float(scores[best])))


class Thumbnails:
    """Small pictures as `data:` addresses, each made once."""

    def __init__(self, pairs: Mapping[str, Pair], size: int = 112) -> None:
        self._pairs = pairs
        self._size = size
        self._made: dict[tuple, str] = {}

    def query(self, shown: Shown) -> str:
        """The picture of a query."""
        return self._thumbnail(shown, self._pairs[shown.domain].queries)

    def neighbour(self, shown: Shown) -> str:
        """The picture of an index picture."""
        return self._thumbnail(shown, self._pairs[shown.domain].searched)

    def _thumbnail(self, shown: Shown, records: object) -> str:
        key = (shown.domain, records.split, shown.record)
        if key not in self._made:
            (contents,) = records.read([shown.record])
            self._made[key] = _small(contents, self._size)
        return self._made[key]


def _small(contents: bytes, size: int) -> str:
    with Image.open(io.BytesIO(contents)) as image:
        image.draft("RGB", (2 * size, 2 * size))
        image = image.convert("RGB")  # drops transparency, as the embedder does
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "WEBP", quality=78)
    return "data:image/webp;base64," + base64.b64encode(out.getvalue()).decode()
