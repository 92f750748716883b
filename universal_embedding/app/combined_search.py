"""One search with several images: like all of them, like any of them, and not like others."""

from collections.abc import Sequence

import numpy as np

from universal_embedding.app.searchable import (
    METRICS,
    Query,
    SearchableIndex,
    SearchHit,
    distances,
    nearest_first,
)
from universal_embedding.errors import UserError

COMBINE = ("mean", "best")
UNLIKE_WEIGHT = 0.5  # of the mean of the images that matches should not be like


def search_combined(
    index: SearchableIndex,
    like: Sequence[Query],
    unlike: Sequence[Query] = (),
    k: int = 5,
    combine: str = "mean",
    metric: str = "euclidean",
    category: str | None = None,
    max_distance: float | None = None,
) -> list[SearchHit]:
    """Finds the images nearest to several queries, nearest first.

    Args:
        index: The index.
        like: Images, embeddings `[D]` or positions in the index; at least one. Positions are not
            among the matches.
        unlike: Others that matches should not be like. With `mean`, half of their mean is
            subtracted from the query; with `best`, a match must be nearer to one of `like` than to
            any of them.
        k: Maximum number of matches.
        combine: `mean`: the distance from the mean of the unit rows of `like`; `best`: the distance
            from the nearest of them.
        metric: `euclidean` or `cosine`.
        category: Search only this category.
        max_distance: Leave out matches farther than this.

    Raises:
        UserError: There is nothing to search with, an image cannot be read, or a name is unknown.
    """
    if not like:
        raise UserError("give at least one image that matches should be like")
    if combine not in COMBINE or metric not in METRICS:
        raise UserError(
            f"combine is {combine!r} and metric {metric!r}; they must be one of "
            f"{', '.join(COMBINE)} and one of {', '.join(METRICS)}"
        )
    if len(like) == 1 and not unlike:
        return index.search(like[0], k, metric, category, max_distance)
    positions = {query for query in [*like, *unlike] if isinstance(query, int)}
    rows = [_embedding(index, query) for query in like]
    away = [_embedding(index, query) for query in unlike]
    count = k + len(positions)
    if combine == "mean":
        query = np.mean(rows, axis=0) - UNLIKE_WEIGHT * (np.mean(away, axis=0) if away else 0)
        norm = np.linalg.norm(query)
        if norm < 1e-6:
            raise UserError("these images cancel one another: leave one out")
        hits = index.search((query / norm).astype(np.float32), count, metric, category)
        found = {hit.index: hit.distance for hit in hits}
    else:
        found = _nearest_to_any(index, rows, away, count, metric, category)
    kept = {position: d for position, d in found.items() if position not in positions}
    hits = nearest_first(
        index, np.array([*kept], np.int64), np.array([*kept.values()], np.float64), max_distance
    )
    return hits[:k]


def _nearest_to_any(
    index: SearchableIndex,
    rows: Sequence[np.ndarray],
    away: Sequence[np.ndarray],
    count: int,
    metric: str,
    category: str | None,
) -> dict[int, float]:
    """Distances of `count` positions or more from the nearest row, none nearer to one of `away`.

    The search widens until enough positions are left, or all were seen.
    """
    while True:
        found: dict[int, float] = {}
        for row in rows:
            for hit in index.search(row, count, metric, category):
                found[hit.index] = min(hit.distance, found.get(hit.index, np.inf))
        kept = {
            position: distance
            for position, distance in found.items()
            if all(distance <= _distance(index.row(position), row, metric) for row in away)
        }
        if len(kept) >= count or count >= len(index):
            return kept
        count = min(4 * count, len(index))


def _distance(row: np.ndarray, query: np.ndarray, metric: str) -> float:
    return float(distances(row[None], query, metric)[0])


def _embedding(index: SearchableIndex, query: Query) -> np.ndarray:
    """`[D]` float32 at unit length, of an image, a position or an embedding."""
    if isinstance(query, int):
        row = index.row(query)
    elif isinstance(query, np.ndarray) and query.ndim == 1:
        row = query
    else:
        row = index.encode(query)
    norm = np.linalg.norm(row)
    if not 0 < norm < np.inf:
        raise UserError("a query must be finite and not all zero")
    return (row / norm).astype(np.float32)
