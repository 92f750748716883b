"""Baselines without training: embeddings centered, reduced by PCA or whitened, then unit rows.

Each map is fitted on training images alone. PCA-whitening is the usual one of image retrieval
(Jegou and Chum, ECCV 2012): x -> normalize(diag(1 / sqrt(l)) V^T (x - m)), with the mean m of the
training embeddings, which have unit length, and the D largest eigenvalues l of their covariance
with eigenvectors V. `pca` leaves the division out, `center` takes away the mean alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from universal_embedding.errors import UserError
from universal_embedding.evaluation.embed import (
    EmbeddingSource,
    QueryIndexRecords,
    embed_eval_sets,
    embed_unit_rows,
)
from universal_embedding.evaluation.embeddings import DomainEmbeddings, normalize_rows
from universal_embedding.evaluation.evaluate import (
    EvaluationConfig,
    EvaluationResult,
    evaluate_embeddings,
)

if TYPE_CHECKING:
    from universal_embedding.datasets.records import Records

METHODS = ("none", "center", "pca", "whiten")
MAX_FIT_IMAGES = 100_000  # 0.8 GB of 1,000 dimensions; more images change nothing that shows
_ROWS_PER_BLOCK = 1 << 16
_MIN_VARIANCE = 1e-10  # of a whitened direction, relative to the first; less is rounding noise


@dataclass(frozen=True)
class EmbeddingTransform:
    """A fitted map of embeddings.

    Attributes:
        method: `center`, `pca` or `whiten`.
        mean: `[F]` float32, subtracted from unit rows.
        matrix: `[F, D]` float32, or None for `center`.
        explained_variance: Share of the training images' variance in the D directions; 1 for
            `center`.
    """

    method: str
    mean: np.ndarray
    matrix: np.ndarray | None = None
    explained_variance: float = 1.0

    @classmethod
    def fit(
        cls, embeddings: np.ndarray, method: str, embedding_dim: int = 64
    ) -> "EmbeddingTransform":
        """Fits a map on embeddings of training images.

        Args:
            embeddings: `[N, F]`; rows are scaled to unit length.
            method: `center`, `pca` or `whiten`.
            embedding_dim: D of `pca` and `whiten`.

        Raises:
            UserError: The embeddings have fewer than D dimensions, or vary in fewer.
            ValueError: There is no such method.
        """
        if method not in METHODS[1:]:
            raise ValueError(f"method is {method!r}; it must be one of {METHODS[1:]}")
        rows = normalize_rows(np.asarray(embeddings, np.float64))
        if method == "center":
            return cls(method, rows.mean(0).astype(np.float32))
        num_rows, size = rows.shape
        if embedding_dim > min(size, num_rows - 1):
            raise UserError(
                f"{method} to {embedding_dim} dimensions is not possible for {num_rows} training "
                f"embeddings of {size} dimensions; give a smaller --embedding_dim"
            )
        from sklearn.decomposition import PCA

        pca = PCA(embedding_dim, svd_solver="covariance_eigh").fit(rows)
        matrix, variances = pca.components_.T, pca.explained_variance_
        if method == "whiten":
            rank = int((variances > _MIN_VARIANCE * variances[0]).sum())
            if rank < embedding_dim:
                raise UserError(
                    f"the {num_rows} training embeddings vary in {rank} directions only, so they "
                    f"cannot be whitened to {embedding_dim}; give --embedding_dim={rank} or less"
                )
            matrix = matrix / np.sqrt(variances)
        share = float(pca.explained_variance_ratio_.sum())
        return cls(method, pca.mean_.astype(np.float32), matrix.astype(np.float32), share)

    def __call__(self, embeddings: np.ndarray) -> np.ndarray:
        """Maps `[N, F]`, whose rows are scaled to unit length, to `[N, D]` float32 unit rows."""
        size = len(self.mean) if self.matrix is None else self.matrix.shape[1]
        result = np.empty((len(embeddings), size), np.float32)
        for start in range(0, len(embeddings), _ROWS_PER_BLOCK):
            block = slice(start, start + _ROWS_PER_BLOCK)
            rows = normalize_rows(np.asarray(embeddings[block], np.float32)) - self.mean
            result[block] = normalize_rows(rows if self.matrix is None else rows @ self.matrix)
        return result

    def map_domains(self, domains: Mapping[str, DomainEmbeddings]) -> dict[str, DomainEmbeddings]:
        """Maps the queries and indexes of every domain."""
        return {
            key: DomainEmbeddings(
                self(domain.query),
                domain.query_labels,
                None if domain.index is None else self(domain.index),
                domain.index_labels,
                domain.query_ids,
                domain.index_ids,
            )
            for key, domain in domains.items()
        }


def evaluate_transforms(
    source: EmbeddingSource,
    eval_sets: Mapping[str, QueryIndexRecords],
    config: EvaluationConfig,
    train_records: Sequence["Records"],
    methods: Sequence[str] = METHODS,
    embedding_dim: int = 64,
) -> list[EvaluationResult]:
    """Evaluates a source as it is and after maps fitted on training images; embeds them once.

    Args:
        source: The source.
        eval_sets: Queries and indexes.
        config: Settings of the evaluation.
        train_records: Training images of all domains. At most `MAX_FIT_IMAGES` of them are
            embedded, of each domain the same share, evenly spaced.
        methods: `none`, `center`, `pca`, `whiten`: one result for each, in this order.
        embedding_dim: D of `pca` and `whiten`.

    Raises:
        UserError: A method is unknown, there is none, or the training images do not allow it.
    """
    if unknown := [method for method in methods if method not in METHODS]:
        raise UserError(f"transform {unknown[0]!r} is unknown; it must be among {METHODS}")
    if not methods:
        raise UserError(f"there is no transform; give at least one of {METHODS}")
    domains = embed_eval_sets(source, eval_sets)
    bank = [embed_unit_rows(source, records) for records in config.bank]
    facts: dict[str, Any] = {}
    if set(methods) != {"none"}:
        samples = [sample_records(r, sum(map(len, train_records))) for r in train_records]
        rows = np.concatenate([embed_unit_rows(source, records) for records in samples])
        counts = {records.domain: len(records) for records in samples}
        total = sum(map(len, train_records))
        facts = {"split": samples[0].split, "num_images": counts, "num_images_of_split": total}
    results = []
    for method in methods:
        if method == "none":
            results.append(evaluate_embeddings(source.name, domains, config, bank))
            continue
        transform = EmbeddingTransform.fit(rows, method, embedding_dim)
        size = "" if transform.matrix is None else f" {embedding_dim}"
        result = evaluate_embeddings(
            f"{source.name}, {method}{size}",
            transform.map_domains(domains),
            config,
            [transform(rows) for rows in bank],
            {
                "method": method,
                "embedding_dim": len(transform.mean) if not size else embedding_dim,
                "explained_variance": transform.explained_variance,
                "fitted_on": facts,
            },
        )
        results.append(result)
    return results


def sample_records(records: "Records", total: int) -> "Records":
    """An evenly spaced sample of a domain's records: its share of `MAX_FIT_IMAGES` of `total`."""
    if total <= MAX_FIT_IMAGES:
        return records
    count = max(1, round(len(records) * MAX_FIT_IMAGES / total))
    return records.select(np.linspace(0, len(records) - 1, count).round().astype(np.int64))
