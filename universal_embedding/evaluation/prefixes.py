"""Prefixes of embeddings: the first d dimensions, scaled to unit length."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from universal_embedding.errors import UserError
from universal_embedding.evaluation.embed import EmbeddingSource
from universal_embedding.evaluation.embeddings import normalize_rows
from universal_embedding.training.run_directory import read_config

if TYPE_CHECKING:
    from universal_embedding.datasets.records import Records


def trained_prefixes(workdir: Path) -> list[int]:
    """The prefixes that a run trained (`config.head.prefixes`), without the whole embedding.

    Raises:
        UserError: There is no such run.
    """
    return list(read_config(workdir)["config"]["head"].get("prefixes", ()))[:-1]


def add_prefixes(source: EmbeddingSource, dimensions: Sequence[int]) -> list[EmbeddingSource]:
    """The source itself, and one for each prefix; images are embedded once for all of them.

    Args:
        source: Embeds records as `[N, D]`.
        dimensions: Sizes of the prefixes.

    Raises:
        UserError: When records are embedded, if a prefix has more than D dimensions.
    """
    if not dimensions:
        return [source]
    rows: dict[tuple[str, str], np.ndarray] = {}

    def embed(records: "Records") -> np.ndarray:
        key = records.domain, records.split
        if key not in rows:
            rows[key] = source.embed(records)
        return rows[key]

    def embed_prefix(dimension: int, records: "Records") -> np.ndarray:
        embeddings = embed(records)
        if not 1 <= dimension <= embeddings.shape[1]:
            raise UserError(
                f"--dimension={dimension} is not a prefix of the {embeddings.shape[1]} dimensions "
                f"of {source.name}; give 1 to {embeddings.shape[1]}"
            )
        return normalize_rows(embeddings[:, :dimension])

    prefixes = [
        EmbeddingSource(
            f"{source.name}, {dimension} dimensions", functools.partial(embed_prefix, dimension)
        )
        for dimension in dimensions
    ]
    return [EmbeddingSource(source.name, embed), *prefixes]
