"""Embedding sources: anything that maps records to embeddings; and the records to evaluate."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from absl import logging
from tqdm import tqdm

from universal_embedding.datasets.embedding_table import EmbeddingTable
from universal_embedding.errors import UserError
from universal_embedding.evaluation.embeddings import DomainEmbeddings, normalize_rows

if TYPE_CHECKING:
    import tensorflow as tf

    from universal_embedding.datasets.records import Records
    from universal_embedding.models.embedding_model import EmbeddingModel


@dataclass(frozen=True)
class EmbeddingSource:
    """Something to evaluate.

    Attributes:
        name: Its name in reports.
        embed: Maps N records to `[N, D]` float32.
    """

    name: str
    embed: Callable[["Records"], np.ndarray]


@dataclass(frozen=True)
class QueryIndexRecords:
    """The records of one domain's queries and of its index, None if the queries are the index."""

    queries: "Records"
    index: "Records | None"

    @property
    def index_records(self) -> "Records":
        """The records of the index, which may be the queries."""
        return self.queries if self.index is None else self.index


class Encode(Protocol):
    """A function of encoded images, such as `Embedder.encode`."""

    def __call__(
        self, images: list[bytes], /, *, batch_size: int, show_progress_bar: bool
    ) -> np.ndarray:
        """Embeds N encoded images as `[N, D]`."""


def open_eval_sets(
    data_dir: str | os.PathLike, dataset: str, split: str, domains: Sequence[str] = ()
) -> dict[str, QueryIndexRecords]:
    """Opens queries and index of `domains`, all prepared ones by default.

    Raises:
        UserError: A domain is not prepared, or a split is missing.
    """
    from universal_embedding.datasets.records import list_prepared_domains, open_query_and_index

    prepared = list_prepared_domains(data_dir, dataset)
    unknown = [key for key in domains if key not in prepared]
    if unknown:
        raise UserError(
            f"domain {unknown[0]!r} is not prepared in {data_dir}/{dataset}: prepare it, or "
            f"select among {', '.join(prepared)}"
        )
    keys = [key for key in prepared if not domains or key in domains]
    return {
        key: QueryIndexRecords(*open_query_and_index(data_dir, dataset, key, split)) for key in keys
    }


def from_model(
    name: str,
    model: "EmbeddingModel",
    batch_size: int,
    strategy: "tf.distribute.Strategy | None" = None,
) -> EmbeddingSource:
    """Makes a source of a model in memory.

    Args:
        name: Its name in reports.
        model: The model, created in the scope of `strategy`.
        batch_size: Images per replica.
        strategy: On whose replicas, of all its hosts, the model runs; None is the current one.
    """
    import tensorflow as tf

    from universal_embedding.models.inference import RecordEmbedder

    strategy = strategy or tf.distribute.get_strategy()
    embedder = RecordEmbedder(model, strategy, model.image_size, model.resize_mode, batch_size)
    return EmbeddingSource(name, embedder)


def from_backbone(
    spec: str,
    image_size: int,
    resize_mode: str,
    batch_size: int,
    strategy: "tf.distribute.Strategy | None" = None,
) -> EmbeddingSource:
    """Makes a source of a bare backbone: its features at unit length, without a projection.

    Args:
        spec: The backbone; see `models.backbones.load_backbone`.
        image_size: Side of the input, in pixels.
        resize_mode: `squash`, `crop` or `pad`.
        batch_size: Images per replica.
        strategy: On whose replicas, of all its hosts, the backbone runs; None is the current one.
    """
    import tensorflow as tf

    from universal_embedding.models.backbones import load_backbone
    from universal_embedding.models.embedding_model import EmbeddingModel

    strategy = strategy or tf.distribute.get_strategy()
    with strategy.scope():
        backbone = load_backbone(spec, image_size)
        model = EmbeddingModel(
            backbone, embedding_dim=None, image_size=image_size, resize_mode=resize_mode
        )
    return from_model(Path(spec).name, model, batch_size, strategy)


def from_encoder(name: str, encode: Encode, batch_size: int) -> EmbeddingSource:
    """Makes a source of a function of encoded images, such as `Embedder.encode`."""

    def embed(records: "Records") -> np.ndarray:
        rows = []
        description = f"{records.domain} {records.split}"
        with tqdm(
            total=len(records), desc=description, unit="image", disable=None, leave=False
        ) as bar:
            for start in range(0, len(records), batch_size):
                indices = range(start, min(start + batch_size, len(records)))
                images = records.read(indices)
                embeddings = encode(images, batch_size=batch_size, show_progress_bar=False)
                rows.append(np.asarray(embeddings, np.float32))
                bar.update(len(indices))
        return np.concatenate(rows)

    return EmbeddingSource(name, embed)


def from_npz(path: str | Path) -> EmbeddingSource:
    """Makes a source of an `.npz` of embeddings; see `EmbeddingTable`."""
    return EmbeddingSource(Path(path).name, EmbeddingTable(path))


def dedupe_names(sources: Sequence[EmbeddingSource]) -> list[EmbeddingSource]:
    """Numbers the sources that share a name: `x #1`, `x #2`."""
    names = [source.name for source in sources]
    renamed = []
    for i, source in enumerate(sources):
        is_repeated = names.count(source.name) > 1
        number = names[: i + 1].count(source.name)
        name = f"{source.name} #{number}" if is_repeated else source.name
        renamed.append(dataclasses.replace(source, name=name))
    return renamed


def embed_eval_sets(
    source: EmbeddingSource, eval_sets: Mapping[str, QueryIndexRecords]
) -> dict[str, DomainEmbeddings]:
    """Embeds queries and indexes and scales the embeddings to unit length.

    Raises:
        UserError: An embedding is not finite.
    """
    domains = {}
    for key, eval_set in eval_sets.items():
        queries, index = eval_set.queries, eval_set.index
        query = embed_unit_rows(source, queries)
        if index is None:
            domains[key] = DomainEmbeddings(query, queries.labels)
            continue
        domains[key] = DomainEmbeddings(
            query,
            queries.labels,
            embed_unit_rows(source, index),
            index.labels,
            queries.image_ids,
            index.image_ids,
        )
    return domains


def embed_unit_rows(source: EmbeddingSource, records: "Records") -> np.ndarray:
    """Embeds N records as `[N, D]` rows of unit length.

    Raises:
        UserError: An embedding is not finite.
    """
    description = f"{source.name} for {records.domain} {records.split}"
    rows = source.embed(records)
    finite = np.isfinite(rows).all(1)
    if not finite.all():
        raise UserError(
            f"{(~finite).sum()} of {len(rows)} embeddings of {description} are NaN or infinite, "
            f"the first for {records.image_ids[np.argmin(finite)]}: check the model or its file"
        )
    norms = np.linalg.norm(rows, axis=1)
    if (norms == 0).any():
        logging.warning("%d embeddings of %s are all zeros", (norms == 0).sum(), description)
    if np.abs(norms - 1).max() > 1e-3:
        logging.info("scaling the embeddings of %s to unit length", description)
    return normalize_rows(rows)
