"""Whom to evaluate: anything that gives the embeddings of prepared pictures."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from absl import logging

from universal_embedding.datasets.records import Records
from universal_embedding.errors import UserError
from universal_embedding.retrieval.gallery import DomainEmbeddings
from universal_embedding.retrieval.table import EmbeddingTable


@dataclass(frozen=True)
class Source:
    """Something that is evaluated.

    Attributes:
        name: What reports call it.
        embed: Records -> `[N, D]` float32.
    """

    name: str
    embed: Callable[[Records], np.ndarray]


@dataclass(frozen=True)
class Pair:
    """The records of one domain's queries and of its index, None if the queries are the index."""

    queries: Records
    index: Records | None

    @property
    def searched(self) -> Records:
        """The records of the index."""
        return self.queries if self.index is None else self.index


def open_pairs(
    data_dir: str, dataset: str, split: str, domains: Sequence[str] = ()
) -> dict[str, Pair]:
    """Opens queries and index of `domains`, all prepared ones by default.

    Raises:
        UserError: A domain is not prepared, or a split is missing.
    """
    from universal_embedding.datasets.records import prepared_domains, query_and_index

    there = prepared_domains(data_dir, dataset)
    unknown = [key for key in domains if key not in there]
    if unknown:
        raise UserError(
            f"domain {unknown[0]!r} is not prepared in {data_dir}/{dataset}; "
            f"there are {', '.join(there)}"
        )
    keys = [key for key in there if not domains or key in domains]
    return {key: Pair(*query_and_index(data_dir, dataset, key, split)) for key in keys}


def of_embedder(
    name: str,
    embedder: "Embedder",  # noqa: F821
    batch_size: int,
    strategy: "tf.distribute.Strategy | None" = None,  # noqa: F821
) -> Source:
    """A `models.embedder.Embedder`, on all replicas of a strategy."""
    import tensorflow as tf

    from universal_embedding.retrieval.embedding import embed_records
    from universal_embedding.training.embed import on_replicas

    strategy = strategy or tf.distribute.get_strategy()
    call = on_replicas(embedder, strategy)  # compiled once, for all domains

    def embed(records: Records) -> np.ndarray:
        return embed_records(call, records, embedder.image_size, embedder.aspect, batch_size)

    return Source(name, embed)


def of_backbone(spec: str, image_size: int, aspect: str, batch_size: int) -> Source:
    """A bare backbone: its features with unit length, no projection."""
    from universal_embedding.models.backbones import load_backbone
    from universal_embedding.models.embedder import Embedder

    backbone = load_backbone(spec, image_size)
    embedder = Embedder(backbone, dimension=None, image_size=image_size, aspect=aspect)
    return of_embedder(Path(spec).name, embedder, batch_size)


def of_files(name: str, embed: Callable[[Sequence[bytes]], np.ndarray], batch_size: int) -> Source:
    """A function of encoded pictures, such as `universal_embedding.load` gives."""
    from universal_embedding.retrieval.embedding import embed_files

    embed = functools.partial(embed, progress=False)
    return Source(name, lambda records: embed_files(embed, records, batch_size))


def of_table(path: str) -> Source:
    """An `.npz` of embeddings; see `table.EmbeddingTable`."""
    return Source(Path(path).name, EmbeddingTable(path))


def named_apart(sources: Sequence[Source]) -> list[Source]:
    """The sources, those of one name numbered."""
    names = [source.name for source in sources]
    apart = []
    for i, source in enumerate(sources):
        twice = names.count(source.name) > 1
        name = f"{source.name} #{names[: i + 1].count(source.name)}" if twice else source.name
        apart.append(dataclasses.replace(source, name=name))
    return apart


def embed_pairs(source: Source, pairs: Mapping[str, Pair]) -> dict[str, DomainEmbeddings]:
    """Embeds queries and indexes, and brings them to unit length."""
    domains = {}
    for key, pair in pairs.items():
        query = _unit_rows(source, pair.queries)
        if pair.index is None:
            domains[key] = DomainEmbeddings(query, pair.queries.labels)
            continue
        domains[key] = DomainEmbeddings(
            query,
            pair.queries.labels,
            _unit_rows(source, pair.index),
            pair.index.labels,
            pair.queries.image_ids,
            pair.index.image_ids,
        )
    return domains


def _unit_rows(source: Source, records: Records) -> np.ndarray:
    where = f"{source.name} for {records.domain} {records.split}"
    rows = source.embed(records)
    finite = np.isfinite(rows).all(1)
    if not finite.all():
        raise UserError(
            f"{(~finite).sum()} of {len(rows)} embeddings of {where} hold NaN or infinity, "
            f"the first for {records.image_ids[np.argmin(finite)]}: nothing can be measured"
        )
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if (norms == 0).any():
        logging.warning("%d embeddings of %s are all zeros", (norms == 0).sum(), where)
    if np.abs(norms - 1).max() > 1e-3:
        logging.info("embeddings of %s are brought to unit length", where)
    return rows / np.maximum(norms, 1e-12)
