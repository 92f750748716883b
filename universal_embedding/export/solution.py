"""A competition of one's own: labelled pictures -> query/, index/ and solution.csv."""

import functools
import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from absl import logging
from tqdm import tqdm

from universal_embedding.datasets.pictures import BrokenPictureError, load
from universal_embedding.datasets.records import Records, prepared_domains, query_and_index
from universal_embedding.errors import UserError
from universal_embedding.export.competition import Solution, write_solution
from universal_embedding.export.picture_files import SUFFIXES

# What TensorFlow decodes, by the first two bytes
MAGIC = {b"\xff\xd8": ".jpg", b"\x89P": ".png", b"GI": ".gif", b"BM": ".bmp"}


@dataclass(frozen=True)
class Picture:
    """One labelled picture.

    Attributes:
        name: Unique; its hash is the picture's id.
        labels: Its classes.
        read: Gives the encoded file.
    """

    name: str
    labels: frozenset[str]
    read: Callable[[], bytes]

    @property
    def id(self) -> str:
        """16 hexadecimal digits, as the competition's ids have."""
        return _hash(self.name)[:16]


def of_folder(folder: str | Path) -> list[Picture]:
    """The pictures of `folder/<class>/...`.

    Raises:
        UserError: There are none.
    """
    pictures = []
    for path in sorted(Path(folder).glob("*/**/*")):
        if path.suffix.lower() in SUFFIXES:
            name = path.relative_to(folder)
            read = functools.partial(_load, path)
            pictures.append(Picture(name.as_posix(), frozenset([name.parts[0]]), read))
    if not pictures:
        raise UserError(f"{folder} has no pictures in folders named by class")
    return pictures


def _load(path: Path) -> bytes:
    try:
        return load(path.parent, path.name)
    except BrokenPictureError as error:
        raise UserError(f"{path} cannot be read as a picture ({error}): remove it") from None


def of_prepared(
    data_dir: str, dataset: str, split: str, domains: Sequence[str], share: float
) -> tuple[list[Picture], list[Picture]]:
    """Queries and index of a prepared set, all domains in one.

    Where the queries are the index too, `share` of each class become queries.

    Raises:
        UserError: The data is not prepared.
    """
    queries, index = [], []
    for domain in domains or prepared_domains(data_dir, dataset):
        asked, searched = query_and_index(data_dir, dataset, domain, split)
        if searched is None:
            parts = divide(_of_records(asked), share)
        else:
            parts = _of_records(asked), _of_records(searched)
        queries += parts[0]
        index += parts[1]
    return queries, index


def _of_records(records: Records) -> list[Picture]:
    def picture(i: int) -> Picture:
        name = f"{records.domain}/{records.split}/{records.image_ids[i]}"
        labels = frozenset(f"{records.domain}/{label}" for label in records.labels[i])
        return Picture(name, labels, lambda: records.read([i])[0])

    return [picture(i) for i in range(len(records))]


def divide(
    pictures: Sequence[Picture], share: float, seed: int = 0
) -> tuple[list[Picture], list[Picture]]:
    """Queries and index: of each class about `share`, but one at least, are queries.

    A class of one picture goes into the index, where it is a distractor.
    """
    classes = defaultdict(list)
    for picture in sorted(pictures, key=lambda p: _hash(f"{seed}:{p.name}")):
        classes[min(picture.labels)].append(picture)
    queries, index = [], []
    for members in classes.values():
        count = min(max(1, round(share * len(members))), len(members) - 1)
        queries += members[:count]
        index += members[count:]
    return queries, index


def write(
    folder: str | Path,
    queries: Sequence[Picture],
    index: Sequence[Picture],
    public: float = 1 / 3,
    seed: int = 0,
) -> Solution:
    """Writes `query/<id>.*`, `index/<id>.*` and `solution.csv` into `folder`.

    Queries without a relevant picture are left out. About `public` of the queries count in the
    public score, the others in the private one.

    Raises:
        UserError: `folder` is in use, or no query has a relevant picture.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} already exists: remove it or name another folder")
    relevant = defaultdict(list)
    for picture in index:
        for label in picture.labels:
            relevant[label].append(picture.id)
    images, usage, kept = {}, {}, []
    for picture in queries:
        ids = {i for label in picture.labels for i in relevant[label]}
        if not ids:
            continue
        kept.append(picture)
        images[picture.id] = tuple(sorted(ids))
        draw = int(_hash(f"usage:{seed}:{picture.name}")[:8], 16) / 2**32
        usage[picture.id] = "Public" if draw < public else "Private"
    if not images:
        raise UserError("no query has a picture of its class in the index: give more pictures")
    if len(kept) < len(queries):
        logging.info("%d queries without relevant pictures left out", len(queries) - len(kept))
    for name, pictures in (("query", kept), ("index", index)):
        _write_pictures(folder / name, pictures)
    solution = Solution(images, usage)
    write_solution(folder / "solution.csv", solution)
    return solution


def _write_pictures(folder: Path, pictures: Sequence[Picture]) -> None:
    folder.mkdir(parents=True)
    for picture in tqdm(pictures, desc=folder.name, unit="picture", disable=None):
        data = picture.read()
        (folder / (picture.id + MAGIC[data[:2]])).write_bytes(data)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
