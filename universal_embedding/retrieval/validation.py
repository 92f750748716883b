"""Scores of a model while it is trained."""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from universal_embedding.models.embedder import Embedder
from universal_embedding.retrieval import sheets
from universal_embedding.retrieval.evaluation import summarise
from universal_embedding.retrieval.picture_rows import draw_rows
from universal_embedding.retrieval.protocol import run
from universal_embedding.retrieval.sources import Pair, Source, embed_pairs, of_embedder


class Validation:
    """Called on the embedder, gives the scores of its queries on the merged index.

    Args:
        pairs: Queries and index by domain; see `sources.open_pairs`.
        batch_size: Pictures embedded at once.
        examples: Queries of each domain that `pictures` shows.
    """

    def __init__(self, pairs: Mapping[str, Pair], batch_size: int = 64, examples: int = 6) -> None:
        self._pairs, self._batch_size, self._examples = pairs, batch_size, examples
        self._rows: dict[str, list[sheets.Row]] = {}
        self._source: Source | None = None  # its compiled function serves every validation

    def __call__(self, embedder: Embedder, strategy: tf.distribute.Strategy) -> dict[str, float]:
        """`merged/<domain or mean>/<metric>` -> score."""
        if self._source is None:
            self._source = of_embedder("validation", embedder, self._batch_size, strategy)
        domains = embed_pairs(self._source, self._pairs)
        results = run(domains, "merged")
        self._rows = {
            key: sheets.drawn(key, domains, results, self._examples) for key in self._pairs
        }
        return {
            f"merged/{domain}/{metric}": scores[metric]
            for domain, scores in summarise(results).items()
            for metric in ("r_at_1", "mmp_at_5")
            if scores[metric] is not None
        }

    def pictures(self) -> dict[str, np.ndarray]:
        """By domain `[H, W, 3]` uint8: queries, the same each time, and what they found last.

        A row is a query and its five neighbours in the merged index, right ones framed in green
        and wrong ones in red.
        """
        return {key: draw_rows(rows, self._pairs) for key, rows in self._rows.items() if rows}
