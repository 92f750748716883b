"""Finding the pictures of a gallery that look most like one picture."""

import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from universal_embedding.errors import UserError
from universal_embedding.gallery import model as models
from universal_embedding.gallery.index import Index
from universal_embedding.retrieval.neighbours import Neighbours

DISTANCES = ("euclidean", "cosine")
EXACT_BELOW = 500_000
SAMPLE = 1000  # pictures on which an approximate search is measured


@dataclass(frozen=True)
class Match:
    """One found picture: its number in the index, name, category and distance from the query."""

    number: int
    name: str
    category: str
    distance: float


class Gallery:
    """An index with its model, ready to search; safe to use from several threads.

    Args:
        index: The pictures' embeddings.
        model: The model that made them.
        origin: Where the model was read from.
        exact_below: Galleries smaller than this are searched exactly, others by ScaNN's tree.

    Raises:
        UserError: The index was made by another model.
    """

    def __init__(
        self, index: Index, model: models.Model, origin: Path, exact_below: int = EXACT_BELOW
    ) -> None:
        index.check_model(model.fingerprint, origin)
        self.index = index
        self.categories = index.categories
        self._model = model
        self._exact_below = exact_below
        self._searches: dict[str | None, tuple[np.ndarray, Neighbours]] = {}
        self._lock = threading.Lock()  # one call of the model or of ScaNN uses all cores
        start = time.perf_counter()
        self._search(None)
        self.build_seconds = time.perf_counter() - start

    @property
    def is_exact(self) -> bool:
        """Whether the search of the whole gallery is exact."""
        return self._searches[None][1].is_exact

    def approximation(self) -> str:
        """What an approximate search costs in recall; measured on pictures of the gallery."""
        from universal_embedding.retrieval.exact import exact
        from universal_embedding.retrieval.neighbours import recall

        rows = self.index.embeddings
        some = rows[np.random.default_rng(0).permutation(len(rows))[:SAMPLE]]
        best = exact()
        best.index(rows)
        truth, _ = best.query(some, min(5, len(rows)))
        start = time.perf_counter()
        found, _ = self._searches[None][1].query(some, truth.shape[1])
        rate = len(some) / (time.perf_counter() - start)
        return (
            f"approximate search: recall@5 {recall(found, truth):.4f} against exact on {len(some)} "
            f"pictures, built in {self.build_seconds:.1f} s, {rate:,.0f} queries a second"
        )

    def embed(self, picture: np.ndarray) -> np.ndarray:
        """`[H, W, 3]` uint8 -> `[D]` float32, one call at a time."""
        with self._lock:
            return models.embed(self._model, [picture])[0]

    def nearest(
        self,
        query: np.ndarray | int,
        k: int = 5,
        distance: str = "euclidean",
        category: str | None = None,
        max_distance: float | None = None,
    ) -> list[Match]:
        """The pictures nearest to the query, nearest first.

        Args:
            query: `[D]` an embedding, or the number of a gallery picture, which does not find
                itself.
            k: How many at most.
            distance: `euclidean`, 0..2, or `cosine` (1 - cosine), 0..2. Their order is the same.
            category: Search only this category.
            max_distance: Leave out pictures farther than this.

        Raises:
            UserError: There is no such category or distance.
        """
        if distance not in DISTANCES:
            raise UserError(f"distance is {distance!r}; it must be one of {', '.join(DISTANCES)}")
        own = query if isinstance(query, int) else -1
        row = self.index.embeddings[query] if isinstance(query, int) else query
        with self._lock:
            numbers, neighbours = self._search(category)
            exclude = np.searchsorted(numbers, own) if own in numbers else -1
            ids, _ = neighbours.query(row[None], min(k, len(numbers)), np.array([exclude]))
        found = numbers[ids[0][ids[0] >= 0]]
        distances = measure(self.index.embeddings[found], row, distance)
        order = np.argsort(distances, kind="stable")
        return [
            Match(n, self.index.names[n], str(self.categories[n]), float(d))
            for n, d in zip(found[order].tolist(), distances[order], strict=True)
            if max_distance is None or d <= max_distance
        ]

    def _search(self, category: str | None) -> tuple[np.ndarray, Neighbours]:
        """The picture numbers of a category (None: all), ascending, and the search of them."""
        if category not in self._searches:
            numbers = np.arange(len(self.index))
            if category is not None:
                numbers = np.flatnonzero(self.categories == category)
            if not len(numbers):
                raise UserError(
                    f"category {category!r} is not in the gallery; it holds "
                    f"{', '.join(map(repr, sorted(set(self.categories.tolist()))))}"
                )
            search = _neighbours(len(numbers) < self._exact_below)
            search.index(self.index.embeddings[numbers])
            self._searches[category] = numbers, search
        return self._searches[category]


def measure(rows: np.ndarray, query: np.ndarray, distance: str) -> np.ndarray:
    """`[N]` float64 distances of unit rows `[N, D]` from `[D]`; exactly 0 for equal rows."""
    euclidean = np.linalg.norm(rows.astype(np.float64) - query.astype(np.float64), axis=-1)
    return euclidean if distance == "euclidean" else euclidean**2 / 2


def open_gallery(directory: Path, saved_model: Path | None, exact_below: int) -> Gallery:
    """Opens an index with its model, or with the same model at another place.

    Raises:
        UserError: There is no index, no model, or the two do not belong together.
    """
    index = Index.open(directory)
    origin = saved_model or index.model
    return Gallery(index, models.load(origin), origin, exact_below)


def _neighbours(exact: bool) -> Neighbours:
    if exact:
        from universal_embedding.retrieval.exact import exact as exact_search

        return exact_search()
    from universal_embedding.retrieval.approximate import ScannTree

    return ScannTree()
