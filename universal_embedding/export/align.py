"""Makes a model's embeddings comparable with those of an older model, whose index stays."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from universal_embedding.datasets.records import Records, open_records
from universal_embedding.errors import UserError
from universal_embedding.evaluation.alignment import METHODS, fit_alignment
from universal_embedding.evaluation.compatibility import evaluate_compatibility
from universal_embedding.evaluation.embed import (
    EmbeddingSource,
    QueryIndexRecords,
    embed_eval_sets,
    from_encoder,
    from_model,
    open_eval_sets,
)
from universal_embedding.evaluation.embeddings import DomainEmbeddings, normalize_rows
from universal_embedding.evaluation.evaluate import EvaluationConfig, EvaluationResult
from universal_embedding.evaluation.statistics import summarize
from universal_embedding.export.embedder import Embedder
from universal_embedding.export.pretrained import is_run_directory, locate_model
from universal_embedding.models.embedding_model import EmbeddingModel
from universal_embedding.training.checkpoints import load_embedding_model

MAX_IMAGES = 10_000
METRIC = "r_at_1"


@dataclass(frozen=True)
class Alignment:
    """A map into an older model's space, and the validation scores that it reaches.

    Attributes:
        method: Of `evaluation.alignment.METHODS`.
        matrix: `[D, D]`, multiplied to the right of the projection's kernel and bias.
        num_images: Number of training images that it was fitted on.
        scores: Merged mean R@1 on the validation split: `old/old`, `new/old (before)`, `new/old`,
            `new/new`.
    """

    method: str
    matrix: np.ndarray
    num_images: int
    scores: dict[str, float]

    def describe(self, name: str) -> str:
        """One line for a terminal and the model card."""
        scores = ", ".join(f"{key} {value:.4f}" for key, value in self.scores.items())
        return (
            f"aligned with {name} ({self.method}, {self.num_images:,} training images); "
            f"validation, merged R@1: {scores}"
        )


def align(
    model: EmbeddingModel,
    old: str | os.PathLike,
    run: Mapping[str, Any],
    data_dir: str | os.PathLike | None = None,
    batch_size: int = 64,
) -> Alignment:
    """Maps a model's embeddings into the space of an older one, in place: see `fit` and `fold`.

    Args:
        model: The model, in the current scope.
        old: A run directory, SavedModel or submission zip.
        run: The config.json of the model's run, whose data the map is fitted on.
        data_dir: Directory of prepared datasets; None: that of the run.
        batch_size: Images per batch.

    Raises:
        UserError: The older model or the data cannot be read, or the sizes differ.
    """
    path, dataset = locate_model(str(old)), run["config"]["data"]["dataset"]
    data_dir = data_dir or run["data_dir"]
    if is_run_directory(path):
        source = from_model(path.name, load_embedding_model(path), batch_size)
    else:
        embedder = Embedder.from_pretrained(path)
        source = from_encoder(path.name, embedder.encode, batch_size)
    eval_sets = open_eval_sets(data_dir, dataset, "val", run["config"]["data"]["domains"])
    train_records = {key: open_records(data_dir, dataset, key, "train") for key in eval_sets}
    new = from_model("the new model", model, batch_size)
    alignment = fit(new, source, train_records, eval_sets)
    fold(model, alignment.matrix)
    return alignment


def fit(
    new: EmbeddingSource,
    old: EmbeddingSource,
    train_records: Mapping[str, Records],
    eval_sets: Mapping[str, QueryIndexRecords],
    max_images: int = MAX_IMAGES,
) -> Alignment:
    """Fits every method on training images, and chooses the one with the best new/old R@1.

    Equal scores go to the rotation, which changes no similarity between new embeddings.

    Args:
        new: The model to align.
        old: The model whose index stays.
        train_records: By domain; equally many of each are embedded, as far as it has them.
        eval_sets: Queries and indexes of the validation split.
        max_images: Number of training images to embed.

    Raises:
        UserError: The embeddings differ in size.
    """
    sample = sample_records(train_records, max_images)
    rows = {
        source.name: np.concatenate([normalize_rows(source.embed(r)) for r in sample])
        for source in (new, old)
    }
    if rows[new.name].shape != rows[old.name].shape:
        raise UserError(
            f"{new.name} has {rows[new.name].shape[1]} dimensions and {old.name} "
            f"{rows[old.name].shape[1]}: only models of one embedding size can be aligned"
        )
    old_domains, new_domains = (embed_eval_sets(source, eval_sets) for source in (old, new))
    before = _scores(old_domains, new_domains)
    candidates = []
    for method in METHODS:
        matrix = fit_alignment(rows[new.name], rows[old.name], method)
        after = _scores(old_domains, transform(new_domains, matrix))
        candidates.append((method, matrix, after))
    method, matrix, after = max(candidates, key=lambda candidate: candidate[2]["new/old"])
    scores = {
        "old/old": before["old/old"],
        "new/old (before)": before["new/old"],
        "new/old": after["new/old"],
        "new/new": after["new/new"],
    }
    return Alignment(method, matrix, len(rows[new.name]), scores)


def fold(model: EmbeddingModel, matrix: np.ndarray) -> None:
    """Multiplies the projection by `matrix` `[D, D]`, in place: no layer and no cost is added.

    Raises:
        UserError: The model has no projection.
    """
    if model.projection is None:
        raise UserError(
            "the model has no projection (config.model.embedding_dim=0), so there is no layer that "
            "an alignment could be folded into"
        )
    model.projection.set_weights(
        [
            (weight.astype(np.float64) @ matrix).astype(weight.dtype)
            for weight in model.projection.get_weights()
        ]
    )


def sample_records(records: Mapping[str, Records], max_images: int, seed: int = 0) -> list[Records]:
    """Selects at most `max_images` records, equally many of each domain as far as it has them."""
    left, chosen = max_images, {}
    for position, key in enumerate(sorted(records, key=lambda key: len(records[key]))):
        count = min(len(records[key]), left // (len(records) - position))
        order = np.random.default_rng((seed, position)).permutation(len(records[key]))
        chosen[key] = records[key].select(np.sort(order[:count]))
        left -= count
    return [chosen[key] for key in records if len(chosen[key])]


def transform(
    domains: Mapping[str, DomainEmbeddings], matrix: np.ndarray
) -> dict[str, DomainEmbeddings]:
    """The embeddings after a linear map, `[D, D]`, scaled to unit length."""

    def apply(rows: np.ndarray | None) -> Any:
        return None if rows is None else normalize_rows(rows @ matrix).astype(np.float32)

    return {
        key: DomainEmbeddings(
            apply(domain.query),
            domain.query_labels,
            apply(domain.index),
            domain.index_labels,
            domain.query_ids,
            domain.index_ids,
        )
        for key, domain in domains.items()
    }


def _scores(old: dict[str, DomainEmbeddings], new: dict[str, DomainEmbeddings]) -> dict[str, float]:
    config = EvaluationConfig(("merged",), (METRIC,), bootstrap_samples=0)
    results = [EvaluationResult(name, x, {}) for name, x in (("old", old), ("new", new))]
    pairs = evaluate_compatibility(results, config, moved_shares=()).pairs
    names = {"old/old": (0, 0), "new/old": (1, 0), "new/new": (1, 1)}
    return {name: summarize(pairs[pair])["mean"][METRIC] for name, pair in names.items()}
