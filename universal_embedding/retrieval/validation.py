"""Scores of a model while it is trained."""

from collections.abc import Mapping

import tensorflow as tf

from universal_embedding.models.embedder import Embedder
from universal_embedding.retrieval.evaluation import evaluate
from universal_embedding.retrieval.sources import Pair, Source, embed_pairs, of_embedder


class Validation:
    """Called on the embedder, gives the scores of its queries on the merged index.

    Args:
        pairs: Queries and index by domain; see `sources.open_pairs`.
        batch_size: Pictures embedded at once.
    """

    def __init__(self, pairs: Mapping[str, Pair], batch_size: int = 64) -> None:
        self._pairs, self._batch_size = pairs, batch_size
        self._source: Source | None = None  # its compiled function serves every validation

    def __call__(self, embedder: Embedder, strategy: tf.distribute.Strategy) -> dict[str, float]:
        """`merged/<domain or mean>/<metric>` -> score."""
        if self._source is None:
            self._source = of_embedder("validation", embedder, self._batch_size, strategy)
        merged = evaluate(embed_pairs(self._source, self._pairs), ["merged"])["merged"]
        return {
            f"merged/{domain}/{metric}": scores[metric]
            for domain, scores in merged.items()
            for metric in ("r_at_1", "mmp_at_5")
            if scores[metric] is not None
        }
