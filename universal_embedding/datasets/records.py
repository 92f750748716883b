"""Prepared images, read by index: `<data_dir>/<dataset>/<domain>/<version>`.

Beside the records of a split, its labels and ids are kept, so that these need no image to be read.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from universal_embedding.datasets.domains import sort_domains
from universal_embedding.datasets.examples import Labels
from universal_embedding.errors import UserError
from universal_embedding.files import atomic_write

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

VERSION = "2.0.0"
CLASS_NAMES_FILE = "class_names.json"


class Records:
    """One split of one domain: N images in a fixed order. Several threads may read at once.

    Attributes:
        folder: The prepared folder.
        domain: The domain's key.
        split: `train`, `val`, `test`, `index` or `small_index`.
        labels: The class ids of each image, as published.
        class_names: Names by class id, empty where none are known.
    """

    def __init__(self, folder: str | os.PathLike, domain: str, split: str) -> None:
        """Opens `split` of the prepared folder `<data_dir>/<dataset>/<domain>/<version>`."""
        self.folder = Path(folder)
        self.domain = domain
        self.split = split
        self._source = _open_source(self.folder, split)
        if not _labels_file(self.folder, split).is_file():
            _rebuild_labels(self.folder, split)
        self.labels: Labels = read_labels(self.folder, split)
        self.class_names = read_class_names(self.folder)
        if len(self.labels) != len(self._source):
            raise UserError(
                f"{self.folder} has {len(self._source)} records but {len(self.labels)} labels in "
                f"split {split!r}; delete the folder and prepare it again"
            )

    def __len__(self) -> int:
        return len(self._source)

    @cached_property
    def image_ids(self) -> np.ndarray:
        """`[N]` object array of str, paths relative to the image folder."""
        return read_image_ids(self.folder, self.split)

    def read(self, indices: Sequence[int] | np.ndarray) -> list[bytes]:
        """The encoded images of these records, in their order."""
        return [record["image"] for record in self.read_examples(indices)]

    def read_examples(self, indices: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
        """The records themselves: `image` bytes, `label` n integers, `image_id` bytes."""
        return self._source.__getitems__([int(index) for index in indices])

    def __reduce__(self) -> tuple:
        return Records, (self.folder, self.domain, self.split)


def default_data_dir() -> str:
    """TFDS's own directory: the variable TFDS_DATA_DIR, or `~/tensorflow_datasets`."""
    return os.environ.get("TFDS_DATA_DIR") or str(Path.home() / "tensorflow_datasets")


def dataset_dir(data_dir: str | os.PathLike, dataset: str, domain: str) -> Path:
    """The folder of the newest prepared version: `<data_dir>/<dataset>/<domain>/<version>`.

    Raises:
        UserError: The domain is not prepared, or only by an earlier release of the package.
    """
    versions = _list_versions(Path(data_dir) / dataset / domain)
    if not versions:
        prepared = ", ".join(list_prepared_domains(data_dir, dataset))
        raise UserError(
            f"domain {domain!r} is not prepared in {Path(data_dir) / dataset}, only {prepared}; "
            f"run universal-embedding prepare --dataset={dataset} --domains={domain} "
            f"--data_dir={data_dir} --manual_dir=<images>"
        )
    newest = versions[-1]
    if _major(newest.name) != _major(VERSION):
        raise UserError(
            f"{newest} was prepared by another release of the package (this one reads version "
            f"{VERSION}); prepare it again: universal-embedding prepare --dataset={dataset} "
            f"--domains={domain} --data_dir={data_dir} --manual_dir=<images>"
        )
    return newest


def list_prepared_domains(data_dir: str | os.PathLike, dataset: str) -> list[str]:
    """The prepared domains, in UnED's order and then by name.

    Raises:
        UserError: There are none, or one is prepared only by an earlier release of the package.
    """
    folder = Path(data_dir) / dataset
    keys = [path.name for path in folder.glob("*") if _list_versions(path)]
    if not keys:
        raise UserError(
            f"nothing is prepared in {folder}; run universal-embedding prepare "
            f"--dataset={dataset} --manual_dir=<images> --data_dir={data_dir}"
        )
    for key in keys:
        dataset_dir(data_dir, dataset, key)
    return sort_domains(keys)


def list_splits(data_dir: str | os.PathLike, dataset: str, domain: str) -> list[str]:
    """The names of the domain's prepared splits."""
    return list(open_builder(dataset_dir(data_dir, dataset, domain)).info.splits)


def has_split(data_dir: str | os.PathLike, dataset: str, domain: str, split: str) -> bool:
    """Whether the prepared domain has that split."""
    return split in list_splits(data_dir, dataset, domain)


def open_records(data_dir: str | os.PathLike, dataset: str, domain: str, split: str) -> Records:
    """Opens one split of a prepared domain.

    Raises:
        UserError: The domain is not prepared or has no such split.
    """
    splits = list_splits(data_dir, dataset, domain)
    if split not in splits:
        raise UserError(
            f"{dataset}/{domain} in {data_dir} has no split {split!r}, only {', '.join(splits)}"
        )
    return Records(dataset_dir(data_dir, dataset, domain), domain, split)


def open_query_and_index(
    data_dir: str | os.PathLike, dataset: str, domain: str, split: str
) -> tuple[Records, Records | None]:
    """Opens the queries of `val` or `test`, and their index; None if the queries are the index.

    Raises:
        UserError: The split has no queries, or is not prepared.
    """
    if split not in ("val", "test"):
        raise UserError(f"split {split!r} has no queries; use val or test")
    queries = open_records(data_dir, dataset, domain, split)
    index = {"val": "small_index", "test": "index"}[split]
    if not has_split(data_dir, dataset, domain, index):
        return queries, None
    return queries, open_records(data_dir, dataset, domain, index)


def open_builder(folder: Path) -> "tfds.core.DatasetBuilder":
    """Opens the TFDS builder of a prepared folder.

    Raises:
        UserError: The folder's description is damaged.
    """
    import tensorflow_datasets as tfds
    from absl import logging

    level = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)  # TFDS logs a line for each folder
    try:
        return tfds.builder_from_directory(folder)
    except Exception as error:  # whatever a damaged description makes TFDS raise
        raise UserError(
            f"cannot open {folder} ({' '.join(str(error).split())}); delete it and prepare it again"
        ) from error
    finally:
        logging.set_verbosity(level)


def write_labels(folder: Path, split: str, labels: Labels, image_ids: Iterable[str]) -> None:
    """Writes the labels and ids of a split's records, in the records' order."""
    encoded = [image_id.encode("utf-8") for image_id in image_ids]
    ends = np.cumsum([0] + [len(name) for name in encoded], dtype=np.int64)
    names = np.frombuffer(b"".join(encoded), np.uint8)
    with atomic_write(_labels_file(folder, split), "wb") as file:
        np.savez(file, values=labels.values, splits=labels.splits, names=names, ends=ends)


def read_labels(folder: Path, split: str) -> Labels:
    """Reads the class ids of a split's records."""
    with np.load(_labels_file(folder, split)) as arrays:
        return Labels(arrays["values"], arrays["splits"])


def read_image_ids(folder: Path, split: str) -> np.ndarray:
    """Reads the ids of a split's records: `[N]` object array of str."""
    with np.load(_labels_file(folder, split)) as arrays:
        names, ends = arrays["names"].tobytes(), arrays["ends"]
    ids = np.empty(len(ends) - 1, object)
    ids[:] = [names[start:end].decode("utf-8") for start, end in pairwise(ends)]
    return ids


def write_class_names(folder: Path, class_names: Mapping[int, str]) -> None:
    """Writes the names of classes by id."""
    names = {str(class_id): name for class_id, name in sorted(class_names.items())}
    (folder / CLASS_NAMES_FILE).write_text(json.dumps(names, ensure_ascii=False), "utf-8")


def read_class_names(folder: Path) -> dict[int, str]:
    """Reads the names by class id, empty where none are known."""
    file = folder / CLASS_NAMES_FILE
    if not file.is_file():
        return {}
    return {int(class_id): name for class_id, name in json.loads(file.read_text("utf-8")).items()}


def _open_source(folder: Path, split: str) -> Any:
    import tensorflow_datasets as tfds

    decoders = {"image": tfds.decode.SkipDecoding()}
    return open_builder(folder).as_data_source(split, decoders=decoders)


def _labels_file(folder: Path, split: str) -> Path:
    return folder / f"labels-{split}.npz"


def _rebuild_labels(folder: Path, split: str) -> None:
    source = _open_source(folder, split)
    rows = [source[i] for i in range(len(source))]
    image_ids = [row["image_id"].decode("utf-8") for row in rows]
    write_labels(folder, split, Labels.from_rows([row["label"] for row in rows]), image_ids)


def _list_versions(folder: Path) -> list[Path]:
    """The prepared versions of one domain, oldest first."""
    if not folder.is_dir():
        return []
    versions = [path.parent for path in folder.glob("*/dataset_info.json")]
    versions = [path for path in versions if re.fullmatch(r"\d+\.\d+\.\d+", path.name)]
    return sorted(versions, key=lambda path: tuple(map(int, path.name.split("."))))


def _major(version: str) -> int:
    return int(version.split(".")[0])
