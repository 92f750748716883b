"""Prepared images, read by index: `<data_dir>/<dataset>/<domain>/<version>`.

Beside the TFRecord files of a split, `records-<split>.npz` has the labels, the id and the place of
each record, so that these need no image to be read, and any record is read by its index.
"""

import os
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from universal_embedding.datasets.domains import sort_domains
from universal_embedding.datasets.examples import Labels
from universal_embedding.datasets.metadata import OPTIONS_FILE, open_builder, read_class_names
from universal_embedding.datasets.tfrecord import decode_example, read_records
from universal_embedding.errors import UserError
from universal_embedding.files import (
    as_path,
    atomic_write,
    file_size,
    is_remote,
    list_directory,
    reporting_unreadable,
)

VERSION = "3.0.0"
DOMAIN_NAME = re.compile(r"[A-Za-z][\w-]*")


class Records:
    """One split of one domain: N images in a fixed order. Several threads may read at once.

    Attributes:
        folder: The prepared folder.
        domain: The domain's key.
        split: `train`, `val`, `test`, `index` or `small_index`.
        labels: The class ids of each image, as published.
        class_names: Names by class id, empty where none are known.
        shard_paths: The TFRecord files of `tf.train.Example`; see `tfrecord.encode_example`.
        shards: `[N]` int32, each record's file in `shard_paths`.
        offsets: `[N]` int64, the byte where each record's header starts.
        lengths: `[N]` int64, bytes of each record, header and footer included.
    """

    _indices: np.ndarray | None = None  # the records of the split, where they were selected

    def __init__(self, folder: str | os.PathLike, domain: str, split: str) -> None:
        """Opens `split` of the prepared folder `<data_dir>/<dataset>/<domain>/<version>`.

        Raises:
            UserError: A file of the split is missing, truncated, or does not fit the others.
        """
        self.folder = as_path(folder)
        self.domain = domain
        self.split = split
        info = open_builder(self.folder).info.splits[split]
        self.shard_paths = [os.fspath(path) for path in info.filepaths]
        table = _read_record_table(self.folder, split)
        self.labels = Labels(table["values"], table["splits"])
        self.shards, self.offsets, self.lengths = (
            table[name] for name in ("shards", "offsets", "lengths")
        )
        self.class_names = read_class_names(self.folder)
        self._check_files(info.shard_lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def image_ids(self) -> np.ndarray:
        """`[N]` object array of str, paths relative to the image folder."""
        return read_image_ids(self.folder, self.split)

    def read(self, indices: Sequence[int] | np.ndarray) -> list[bytes]:
        """The encoded images of these records, in their order."""
        return [record["image"] for record in self.read_examples(indices)]

    def read_examples(self, indices: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
        """The records themselves: `image` bytes, `label` n integers, `image_id` bytes.

        Raises:
            UserError: A record is damaged.
        """
        rows = np.asarray(indices, np.int64)
        places = self.shards[rows], self.offsets[rows], self.lengths[rows]
        with reporting_unreadable(self.folder, "delete it and prepare it again"):
            return [decode_example(data) for data in read_records(self.shard_paths, *places)]

    def select(self, indices: np.ndarray) -> "Records":
        """The records at `indices` `[n]`, in that order, as records of their own."""
        selected = object.__new__(type(self))
        selected.__dict__.update(self.__dict__)
        selected.labels = Labels.from_rows([self.labels[i] for i in indices])
        selected.image_ids = self.image_ids[indices]
        for name in ("shards", "offsets", "lengths"):
            setattr(selected, name, getattr(self, name)[indices])
        selected._indices = indices if self._indices is None else self._indices[indices]
        return selected

    def __reduce__(self) -> tuple:
        return _reopen, (self.folder, self.domain, self.split, self._indices)

    def _check_files(self, shard_lengths: Sequence[int]) -> None:
        """Compares the table of the records with the shards and with TFDS's description."""
        counts = np.bincount(self.shards, minlength=len(self.shard_paths)).tolist()
        ends = np.zeros(len(counts), np.int64)
        np.maximum.at(ends, self.shards, self.offsets + self.lengths)
        if counts != list(shard_lengths) or len(self.labels) != len(self):
            raise UserError(
                f"{_table_file(self.folder, self.split)} has places of {len(self)} records and "
                f"labels of {len(self.labels)}, but there are {sum(shard_lengths)}; "
                f"delete {self.folder} and prepare it again"
            )
        with ThreadPoolExecutor(32 if is_remote(self.folder) else 1) as pool:
            sizes = list(pool.map(file_size, self.shard_paths))
        for path, size, end in zip(self.shard_paths, sizes, ends.tolist(), strict=True):
            if size != end:
                state = "is missing" if size is None else f"has {size:,} bytes, not {end:,}"
                raise UserError(f"{path} {state}; delete {self.folder} and prepare it again")


def _reopen(folder: epath.Path, domain: str, split: str, indices: np.ndarray | None) -> Records:
    records = Records(folder, domain, split)
    return records if indices is None else records.select(indices)


def default_data_dir() -> str:
    """TFDS's own directory: the variable TFDS_DATA_DIR, or `~/tensorflow_datasets`."""
    return os.environ.get("TFDS_DATA_DIR") or str(Path.home() / "tensorflow_datasets")


def dataset_dir(data_dir: str | os.PathLike, dataset: str, domain: str) -> epath.Path:
    """The folder of the newest prepared version: `<data_dir>/<dataset>/<domain>/<version>`.

    Raises:
        UserError: The domain is not prepared, or only by an earlier release of the package.
    """
    parent = as_path(data_dir) / dataset
    versions = _list_versions(parent / domain)
    if not versions:
        prepared = ", ".join(list_prepared_domains(data_dir, dataset))
        raise UserError(
            f"domain {domain!r} is not prepared in {parent}, only {prepared}; "
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
    if "+" in dataset:
        parts = [list_prepared_domains(data_dir, name) for name in dataset.split("+")]
        return sort_domains({key for part in parts for key in part})
    folder = as_path(data_dir) / dataset
    folders = [path for path in list_directory(folder) if DOMAIN_NAME.fullmatch(path.name)]
    keys = [path.name for path in folders if _list_versions(path)]
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
    if "+" in dataset:
        parts = [list_splits(data_dir, n, domain) for n in _datasets_of(data_dir, dataset, domain)]
        return list(dict.fromkeys(name for part in parts for name in part))
    return list(open_builder(dataset_dir(data_dir, dataset, domain)).info.splits)


def _datasets_of(data_dir: str | os.PathLike, joined: str, domain: str) -> list[str]:
    """Those of the data sets `a+b` that have the domain."""
    return [n for n in joined.split("+") if domain in list_prepared_domains(data_dir, n)]


def has_split(data_dir: str | os.PathLike, dataset: str, domain: str, split: str) -> bool:
    """Whether the prepared domain has that split."""
    return split in list_splits(data_dir, dataset, domain)


def open_records(data_dir: str | os.PathLike, dataset: str, domain: str, split: str) -> Records:
    """Opens one split of a prepared domain.

    Args:
        data_dir: Directory of prepared datasets.
        dataset: Its name, or several, `a+b`, which are read as one: see `JoinedRecords`.
        domain: The domain's key.
        split: The split's name.

    Raises:
        UserError: The domain is not prepared or has no such split.
    """
    if "+" in dataset:
        from universal_embedding.datasets.joined_records import JoinedRecords

        datasets = _datasets_of(data_dir, dataset, domain)
        return JoinedRecords(
            [
                open_records(data_dir, name, domain, split)
                if name in datasets and has_split(data_dir, name, domain, split)
                else None
                for name in dataset.split("+")
            ]
        )
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


def write_record_table(
    folder: epath.Path,
    split: str,
    labels: Labels,
    image_ids: Iterable[str],
    lengths: Sequence[np.ndarray],
) -> None:
    """Writes labels, ids and places of a split's records.

    Args:
        folder: The prepared folder.
        split: The split's name.
        labels: Class ids of the N records, in their order.
        image_ids: Their N ids.
        lengths: For each shard, the bytes of its records, header and footer included.
    """
    encoded = [image_id.encode("utf-8") for image_id in image_ids]
    ends = np.cumsum([0] + [len(name) for name in encoded], dtype=np.int64)
    with atomic_write(_table_file(folder, split), "wb") as file:
        np.savez(
            file,
            values=labels.values,
            splits=labels.splits,
            names=np.frombuffer(b"".join(encoded), np.uint8),
            ends=ends,
            shards=np.repeat(np.arange(len(lengths), dtype=np.int32), [len(n) for n in lengths]),
            offsets=np.concatenate([np.cumsum(n) - n for n in lengths]),
            lengths=np.concatenate(lengths),
        )


def read_image_ids(folder: epath.Path, split: str) -> np.ndarray:
    """Reads the ids of a split's records: `[N]` object array of str."""
    table = _read_record_table(folder, split, ("names", "ends"))
    names, ends = table["names"].tobytes(), table["ends"]
    ids = np.empty(len(ends) - 1, object)
    ids[:] = [names[start:end].decode("utf-8") for start, end in pairwise(ends)]
    return ids


def _table_file(folder: epath.Path, split: str) -> epath.Path:
    return folder / f"records-{split}.npz"


def _read_record_table(
    folder: epath.Path,
    split: str,
    names: Sequence[str] = ("values", "splits", "shards", "offsets", "lengths"),
) -> dict[str, np.ndarray]:
    path, remedy = _table_file(folder, split), f"delete {folder} and prepare it again"
    try:
        with reporting_unreadable(path, remedy), path.open("rb") as file, np.load(file) as arrays:
            return {name: arrays[name] for name in names}
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {remedy}") from None


def _list_versions(folder: epath.Path) -> list[epath.Path]:
    """The prepared versions of one domain, oldest first."""
    versions = [p for p in list_directory(folder) if re.fullmatch(r"\d+\.\d+\.\d+", p.name)]
    versions = [path for path in versions if (path / OPTIONS_FILE).exists()]
    return sorted(versions, key=lambda path: tuple(map(int, path.name.split("."))))


def _major(version: str) -> int:
    return int(version.split(".")[0])
