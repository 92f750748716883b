"""Prepared pictures, read back by number."""

import os
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from universal_embedding.datasets import domains, sidecars
from universal_embedding.datasets.labels import Labels
from universal_embedding.errors import UserError


class Records:
    """One split of one domain: N pictures in a fixed order. Several threads may read at once.

    Attributes:
        domain: The domain's key.
        split: `train`, `val`, `test`, `index` or `small_index`.
        labels: The class ids of each picture, as published.
        class_names: Names by class id, empty where none are known.
        image_ids: `[N]` object array of str, paths relative to the picture folder.
    """

    def __init__(self, folder: str | os.PathLike, domain: str, split: str) -> None:
        """Opens `split` of the prepared folder `<data_dir>/<dataset>/<domain>/<version>`."""
        self.folder = Path(folder)
        self.domain = domain
        self.split = split
        self._source = _source(self.folder, split)
        if not sidecars.exists(self.folder, split):
            _build_sidecar(self.folder, split)
        self.labels: Labels = sidecars.read_labels(self.folder, split)
        self.class_names = sidecars.read_class_names(self.folder)
        if len(self.labels) != len(self._source):
            raise UserError(
                f"{self.folder} has {len(self._source)} records but {len(self.labels)} labels in "
                f"split {split!r}: delete the folder and prepare it again"
            )

    def __len__(self) -> int:
        return len(self._source)

    @cached_property
    def image_ids(self) -> np.ndarray:
        """`[N]` object array of str, paths relative to the picture folder."""
        return sidecars.read_image_ids(self.folder, self.split)

    def read(self, numbers: Sequence[int]) -> list[bytes]:
        """The encoded pictures of these record numbers, in their order."""
        return [record["image"] for record in self.read_whole(numbers)]

    def read_whole(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """The records themselves: `image` bytes, `label` n integers, `image_id` bytes."""
        return self._source.__getitems__([int(number) for number in numbers])

    def __reduce__(self) -> tuple:
        return Records, (self.folder, self.domain, self.split)


def _source(folder: Path, split: str) -> Sequence:
    decoders = {"image": tfds.decode.SkipDecoding()}
    return open_builder(folder).as_data_source(split, decoders=decoders)


def open_builder(folder: Path) -> tfds.core.DatasetBuilder:
    """The TFDS builder of a prepared folder."""
    level = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)  # TFDS logs a line for each folder
    try:
        return tfds.builder_from_directory(folder)
    except Exception as error:  # whatever a damaged description makes TFDS raise
        raise UserError(
            f"{folder} cannot be opened ({' '.join(str(error).split())}): delete it and prepare it "
            "again"
        ) from error
    finally:
        logging.set_verbosity(level)


def _build_sidecar(folder: Path, split: str) -> None:
    source = _source(folder, split)
    rows = [source[number] for number in range(len(source))]
    ids = [row["image_id"].decode("utf-8") for row in rows]
    sidecars.write(folder, split, Labels.of([row["label"] for row in rows]), ids)


def prepared_folder(data_dir: str | os.PathLike, dataset: str, domain: str) -> Path:
    """The folder of the newest prepared version: `<data_dir>/<dataset>/<domain>/<version>`."""
    versions = _versions(Path(data_dir) / dataset / domain)
    if not versions:
        there = ", ".join(prepared_domains(data_dir, dataset))
        raise UserError(
            f"domain {domain!r} is not prepared in {Path(data_dir) / dataset}, only {there}: "
            f"run tools/prepare.py --dataset={dataset} --domains={domain} --data_dir={data_dir}"
        )
    return versions[-1]


def _versions(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    versions = [path.parent for path in folder.glob("*/dataset_info.json")]
    versions = [path for path in versions if re.fullmatch(r"\d+\.\d+\.\d+", path.name)]
    return sorted(versions, key=lambda path: tuple(map(int, path.name.split("."))))


def prepared_domains(data_dir: str | os.PathLike, dataset: str) -> list[str]:
    """The domains prepared so far, in UnED's order and then by name."""
    folder = Path(data_dir) / dataset
    keys = [path.name for path in folder.glob("*") if _versions(path)]
    if not keys:
        raise UserError(
            f"nothing is prepared in {folder}: run tools/prepare.py --dataset={dataset} "
            f"--manual_dir=<pictures> --data_dir={data_dir}"
        )
    return domains.in_order(keys)


def splits(data_dir: str | os.PathLike, dataset: str, domain: str) -> list[str]:
    """The names of the domain's prepared splits."""
    return list(open_builder(prepared_folder(data_dir, dataset, domain)).info.splits)


def has_split(data_dir: str | os.PathLike, dataset: str, domain: str, split: str) -> bool:
    """Whether the prepared domain has that split."""
    return split in splits(data_dir, dataset, domain)


def open_records(data_dir: str | os.PathLike, dataset: str, domain: str, split: str) -> Records:
    """Opens one split of a prepared domain."""
    there = splits(data_dir, dataset, domain)
    if split not in there:
        raise UserError(
            f"{dataset}/{domain} in {data_dir} has no split {split!r}, only {', '.join(there)}"
        )
    return Records(prepared_folder(data_dir, dataset, domain), domain, split)


def query_and_index(
    data_dir: str | os.PathLike, dataset: str, domain: str, split: str
) -> tuple[Records, Records | None]:
    """The queries of `val` or `test`, and their index; None if the queries are the index."""
    if split not in ("val", "test"):
        raise UserError(f"split {split!r} has no queries: choose val or test")
    queries = open_records(data_dir, dataset, domain, split)
    index = {"val": "small_index", "test": "index"}[split]
    if not has_split(data_dir, dataset, domain, index):
        return queries, None
    return queries, open_records(data_dir, dataset, domain, index)
