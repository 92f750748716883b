"""Evaluation of a model during training."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from universal_embedding.errors import UserError
from universal_embedding.evaluation.embed import (
    EmbeddingSource,
    QueryIndexRecords,
    embed_eval_sets,
    from_model,
)
from universal_embedding.evaluation.embeddings import DomainEmbeddings
from universal_embedding.evaluation.metrics import DEFAULT_METRICS, RelevanceLookup
from universal_embedding.evaluation.protocol import ProtocolResult, run_protocol
from universal_embedding.evaluation.statistics import summarize

if TYPE_CHECKING:
    import tensorflow as tf

    from universal_embedding.models.embedding_model import EmbeddingModel

DrawExamples = Callable[
    [Mapping[str, DomainEmbeddings], ProtocolResult, Mapping[str, QueryIndexRecords], int],
    dict[str, np.ndarray],
]


class Validation:
    """Scores a model on the queries of evaluation sets; called whenever training evaluates.

    Args:
        eval_sets: Queries and index by domain; see `open_eval_sets`.
        protocols: `merged`, `separate` or both.
        metrics: Names; see `metrics.Metric`.
        batch_size: Images embedded at once.
        num_examples: Queries per domain that `images` shows; 0 for none.
        draw: Draws examples: `(domains, result, eval_sets, num_examples)` -> `[H, W, 3]` uint8 by
            domain, from the first protocol's result; None for none. See `reporting.montage`.

    Raises:
        UserError: no query has a relevant image, so there is nothing to score.
    """

    def __init__(
        self,
        eval_sets: Mapping[str, QueryIndexRecords],
        protocols: Sequence[str] = ("merged",),
        metrics: Sequence[str] = DEFAULT_METRICS,
        batch_size: int = 64,
        num_examples: int = 6,
        draw: DrawExamples | None = None,
    ) -> None:
        if not any(map(_has_positives, eval_sets.values())):
            names = ", ".join(f"{e.queries.domain} {e.queries.split}" for e in eval_sets.values())
            raise UserError(
                f"no image of {names} has another one of its class in the index, so there is "
                "nothing to score; prepare more images per class, or evaluate another split by "
                "config.evals.val.split"
            )
        self._eval_sets = eval_sets
        self._protocols, self._metrics = protocols, metrics
        self._batch_size = batch_size
        self._num_examples, self._draw = num_examples, draw
        self._images: dict[str, np.ndarray] = {}
        self._source: EmbeddingSource | None = None  # its compiled function serves every call

    def __call__(
        self, model: "EmbeddingModel", strategy: "tf.distribute.Strategy"
    ) -> dict[str, float]:
        """Evaluates the model on all replicas of `strategy`.

        Every call must get the same model; its weights may have changed.

        Returns:
            `<protocol>/<domain or mean>/<metric>` -> score, without those that are None.
        """
        if self._source is None:
            self._source = from_model("validation", model, self._batch_size, strategy)
        domains = embed_eval_sets(self._source, self._eval_sets)
        results = {
            protocol: run_protocol(domains, protocol, self._metrics) for protocol in self._protocols
        }
        if self._draw is not None and self._num_examples:
            first = results[self._protocols[0]]
            self._images = self._draw(domains, first, self._eval_sets, self._num_examples)
        return {
            f"{protocol}/{domain}/{metric}": scores[metric]
            for protocol, result in results.items()
            for domain, scores in summarize(result).items()
            for metric in self._metrics
            if scores[metric] is not None
        }

    def images(self) -> dict[str, np.ndarray]:
        """Returns `[H, W, 3]` uint8 by domain: the images that `draw` made last."""
        return self._images


def _has_positives(eval_set: QueryIndexRecords) -> bool:
    """Whether any query has a relevant image, which the labels alone tell."""
    queries, index = eval_set.queries, eval_set.index
    domain = DomainEmbeddings(np.zeros([len(queries), 0]), queries.labels)
    if index is not None:
        domain = DomainEmbeddings(
            domain.query,
            domain.query_labels,
            np.zeros([len(index), 0]),
            index.labels,
            queries.image_ids,
            index.image_ids,
        )
    _, index_labels = domain.index_embeddings
    lookup = RelevanceLookup(domain.query_labels, index_labels, domain.self_index)
    return bool(lookup.num_positives.any())
