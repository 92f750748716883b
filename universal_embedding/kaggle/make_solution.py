"""Makes a competition from labeled images: query/, index/ and solution.csv."""

import functools
import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from absl import logging
from tqdm import tqdm

from universal_embedding.datasets.image_files import CorruptImageError, read_image_bytes
from universal_embedding.datasets.image_listing import list_image_files
from universal_embedding.datasets.records import (
    Records,
    list_prepared_domains,
    open_query_and_index,
)
from universal_embedding.errors import UserError
from universal_embedding.files import atomic_directory
from universal_embedding.kaggle.competition import Solution, write_solution

# Formats that TensorFlow decodes, by their first two bytes.
SUFFIX_BY_MAGIC = {b"\xff\xd8": ".jpg", b"\x89P": ".png", b"GI": ".gif", b"BM": ".bmp"}


@dataclass(frozen=True)
class LabeledImage:
    """One labeled image.

    Attributes:
        name: Unique; its hash is the image's id.
        labels: Its classes.
        read: Returns the encoded file.
    """

    name: str
    labels: frozenset[str]
    read: Callable[[], bytes]

    @property
    def id(self) -> str:
        """16 hexadecimal digits, as the ids of the competition."""
        return _hash(self.name)[:16]


def from_folder(folder: str | Path) -> list[LabeledImage]:
    """Lists the images of `folder/<class>/...`.

    Raises:
        UserError: There are none.
    """
    images = []
    listing = list_image_files(Path(folder))
    for name, reason in listing.unusable.items():
        raise UserError(f"{folder}/{name} cannot be used: {reason}")
    for name in listing.names:
        if "/" in name:
            read = functools.partial(_read_file, Path(folder, name))
            images.append(LabeledImage(name, frozenset([name.split("/")[0]]), read))
    if not images:
        raise UserError(f"{folder} has no images in sub-folders named by class")
    return images


def from_records(
    data_dir: str, dataset: str, split: str, domains: Sequence[str], query_fraction: float
) -> tuple[list[LabeledImage], list[LabeledImage]]:
    """Queries and index of a prepared dataset, all domains merged.

    Where the queries are the index too, `query_fraction` of each class become queries.

    Raises:
        UserError: The data is not prepared.
    """
    queries: list[LabeledImage] = []
    index: list[LabeledImage] = []
    for domain in domains or list_prepared_domains(data_dir, dataset):
        query_records, index_records = open_query_and_index(data_dir, dataset, domain, split)
        if index_records is None:
            images = _label_records(query_records)
            domain_queries, domain_index = split_queries_and_index(images, query_fraction)
        else:
            domain_queries = _label_records(query_records)
            domain_index = _label_records(index_records)
        queries += domain_queries
        index += domain_index
    return queries, index


def split_queries_and_index(
    images: Sequence[LabeledImage], query_fraction: float, seed: int = 0
) -> tuple[list[LabeledImage], list[LabeledImage]]:
    """Splits images into queries and index: about `query_fraction` of each class, at least one.

    A class of one image goes into the index, where it is a distractor.
    """
    classes = defaultdict(list)
    for image in sorted(images, key=lambda image: _hash(f"{seed}:{image.name}")):
        classes[min(image.labels)].append(image)
    queries, index = [], []
    for members in classes.values():
        count = min(max(1, round(query_fraction * len(members))), len(members) - 1)
        queries += members[:count]
        index += members[count:]
    return queries, index


def write_competition(
    folder: str | Path,
    queries: Sequence[LabeledImage],
    index: Sequence[LabeledImage],
    public_fraction: float = 1 / 3,
    seed: int = 0,
) -> Solution:
    """Writes `query/<id>.*`, `index/<id>.*` and `solution.csv` into `folder`.

    Queries without a relevant image are left out. About `public_fraction` of the queries count
    in the public score, the others in the private one.

    Raises:
        UserError: `folder` is in use, or no query has a relevant image.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} already exists: remove it or name another folder")
    ids_by_label = defaultdict(list)
    for image in index:
        for label in image.labels:
            ids_by_label[label].append(image.id)
    relevant_ids, usage, used_queries = {}, {}, []
    for query in queries:
        ids = {i for label in query.labels for i in ids_by_label[label]}
        if not ids:
            continue
        used_queries.append(query)
        relevant_ids[query.id] = tuple(sorted(ids))
        uniform = int(_hash(f"usage:{seed}:{query.name}")[:8], 16) / 2**32
        usage[query.id] = "Public" if uniform < public_fraction else "Private"
    if not relevant_ids:
        raise UserError("no query has an image of its class in the index: provide more images")
    if len(used_queries) < len(queries):
        num_skipped = len(queries) - len(used_queries)
        logging.info("%d queries without relevant images left out", num_skipped)
    solution = Solution(relevant_ids, usage)
    with atomic_directory(folder) as partial:
        for name, images in (("query", used_queries), ("index", index)):
            _write_images(partial / name, images)
        write_solution(partial / "solution.csv", solution)
    return solution


def _read_file(path: Path) -> bytes:
    try:
        return read_image_bytes(path.parent, path.name)
    except CorruptImageError as error:
        raise UserError(f"{path}: {error}; replace or remove it") from None


def _label_records(records: Records) -> list[LabeledImage]:
    def to_labeled_image(i: int) -> LabeledImage:
        name = f"{records.domain}/{records.split}/{records.image_ids[i]}"
        labels = frozenset(f"{records.domain}/{label}" for label in records.labels[i])
        return LabeledImage(name, labels, lambda: records.read([i])[0])

    return [to_labeled_image(i) for i in range(len(records))]


def _write_images(folder: Path, images: Sequence[LabeledImage]) -> None:
    folder.mkdir()
    for image in tqdm(images, desc=folder.name, unit="image", disable=None):
        data = image.read()
        (folder / (image.id + SUFFIX_BY_MAGIC[data[:2]])).write_bytes(data)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
