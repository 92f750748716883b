"""Queries beside their nearest neighbors: which to show, and their images."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from universal_embedding.datasets.image_files import read_image
from universal_embedding.datasets.records import Records
from universal_embedding.evaluation.embed import QueryIndexRecords
from universal_embedding.evaluation.embeddings import DomainEmbeddings
from universal_embedding.evaluation.protocol import ProtocolResult

RIGHT, WRONG, QUERY, BACKGROUND = (26, 150, 65), (215, 48, 39), (90, 90, 90), (255, 255, 255)
FRAME, GAP = 4, 4  # pixels


@dataclass(frozen=True)
class Neighbor:
    """One image of a row: its domain and record, its similarity to the query, and relevance."""

    domain: str
    record: int
    similarity: float = 1.0
    is_relevant: bool = True


@dataclass(frozen=True)
class QueryRow:
    """A query, its nearest neighbors, and the most similar relevant image of the index."""

    query: Neighbor
    neighbors: tuple[Neighbor, ...]
    best_positive: Neighbor


def worst_failures(
    key: str, domains: Mapping[str, DomainEmbeddings], result: ProtocolResult, max_rows: int
) -> list[QueryRow]:
    """Queries of domain `key` whose first neighbor is wrong, worst first.

    Those with the fewest relevant neighbors come first, and among them those whose first neighbor
    is the most similar.
    """
    outcome = result.domains[key]
    wrong = np.flatnonzero((outcome.num_positives > 0) & ~outcome.relevant[:, 0])
    num_relevant = outcome.relevant[wrong].sum(1)
    order = np.lexsort((wrong, -outcome.similarities[wrong, 0], num_relevant))
    return [_make_row(key, int(query), domains, result) for query in wrong[order[:max_rows]]]


def sample_queries(
    key: str, domains: Mapping[str, DomainEmbeddings], result: ProtocolResult, max_rows: int
) -> list[QueryRow]:
    """A random sample of the queries of domain `key`, always the same."""
    counted = np.flatnonzero(result.domains[key].num_positives > 0)
    sample = np.random.default_rng(0).permutation(counted)[:max_rows]
    return [_make_row(key, int(query), domains, result) for query in sample]


def draw_query_rows(
    rows: Sequence[QueryRow], eval_sets: Mapping[str, QueryIndexRecords], size: int = 96
) -> np.ndarray:
    """Draws one row of images per query: its frame gray, those of its neighbors green or red.

    Args:
        rows: R rows.
        eval_sets: The records of the images.
        size: Side of each image within its frame, in pixels; shorter sides are padded with white.

    Returns:
        `[R * (size + 12), N * (size + 12), 3]` uint8; N is the largest number of images in a row.
    """
    side = size + 2 * FRAME + GAP
    width = max(1 + len(row.neighbors) for row in rows)
    montage = Image.new("RGB", (width * side, len(rows) * side), BACKGROUND)
    for y, row in enumerate(rows):
        tiles = [(row.query, eval_sets[row.query.domain].queries, QUERY)]
        for neighbor in row.neighbors:
            color = RIGHT if neighbor.is_relevant else WRONG
            tiles.append((neighbor, eval_sets[neighbor.domain].index_records, color))
        for x, (image, records, color) in enumerate(tiles):
            whole = Image.fromarray(_read(records, image.record))
            padded = ImageOps.pad(whole, (size, size), color=BACKGROUND)
            montage.paste(ImageOps.expand(padded, FRAME, color), (x * side, y * side))
    return np.asarray(montage)


def draw_validation_examples(
    domains: Mapping[str, DomainEmbeddings],
    result: ProtocolResult,
    eval_sets: Mapping[str, QueryIndexRecords],
    num_examples: int,
) -> dict[str, np.ndarray]:
    """Draws a sample of each domain's queries, `[H, W, 3]` uint8 by domain; for validation."""
    images = {}
    for key in result.domains:
        rows = sample_queries(key, domains, result, num_examples)
        if rows:
            images[key] = draw_query_rows(rows, eval_sets)
    return images


class Thumbnails:
    """Small images as `data:` URLs, each made once.

    Args:
        eval_sets: The records of the images.
        size: Longest side, in pixels.
    """

    def __init__(self, eval_sets: Mapping[str, QueryIndexRecords], size: int = 112) -> None:
        self._eval_sets, self._size = eval_sets, size
        self._urls: dict[tuple[str, str, int], str] = {}

    def of_query(self, image: Neighbor) -> str:
        """The URL of a query's image."""
        return self._url(image, self._eval_sets[image.domain].queries)

    def of_index(self, image: Neighbor) -> str:
        """The URL of an index image."""
        return self._url(image, self._eval_sets[image.domain].index_records)

    def _url(self, image: Neighbor, records: Records) -> str:
        key = (image.domain, records.split, image.record)
        if key not in self._urls:
            thumbnail = Image.fromarray(_read(records, image.record))
            thumbnail.thumbnail((self._size, self._size), Image.Resampling.LANCZOS)
            buffer = io.BytesIO()
            thumbnail.save(buffer, "WEBP", quality=78)
            encoded = base64.b64encode(buffer.getvalue()).decode()
            self._urls[key] = f"data:image/webp;base64,{encoded}"
        return self._urls[key]


def _read(records: Records, record: int) -> np.ndarray:
    (contents,) = records.read([record])
    return read_image(contents)


def _make_row(
    key: str, query: int, domains: Mapping[str, DomainEmbeddings], result: ProtocolResult
) -> QueryRow:
    keys, outcome, domain = sorted(domains), result.domains[key], domains[key]
    neighbors = tuple(
        Neighbor(keys[domain_id], int(record), float(similarity), bool(is_relevant))
        for domain_id, record, similarity, is_relevant in zip(
            outcome.neighbor_domains[query],
            outcome.neighbors[query],
            outcome.similarities[query],
            outcome.relevant[query],
            strict=True,
        )
        if record >= 0
    )
    embeddings, labels = domain.index_embeddings
    positives = labels.row_ids[np.isin(labels.values, domain.query_labels[query])]
    positives = np.unique(positives[positives != domain.self_index[query]])
    similarities = embeddings[positives] @ domain.query[query]
    best = int(np.argmax(similarities))
    positive = Neighbor(key, int(positives[best]), float(similarities[best]))
    return QueryRow(Neighbor(key, query), neighbors, positive)
