"""Embeddings or backbone features of all training images, computed once and kept on disk."""

import functools
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Protocol

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from universal_embedding.datasets.records import Records
from universal_embedding.files import atomic_write
from universal_embedding.models.backbones import FusedBackbone, list_towers
from universal_embedding.models.distribution import all_gather_text, num_hosts_and_id
from universal_embedding.models.embedding_model import EmbeddingModel
from universal_embedding.models.inference import RecordEmbedder


class BlockEmbedder(Protocol):
    """Anything that gives the rows of records; a `RecordEmbedder` is one."""

    def embed_blocks(self, records: Records, start: int = 0) -> Iterator[np.ndarray]:
        """Yields the rows of the records from `start` on, `[n, D]` float32 by block, in order."""


class FeatureCache:
    """One row for each training image, in `folder/<domain>.npy`: `[N, D]` float32.

    A file appears under its name only when it is complete. Until then, its rows are appended to a
    hidden file, and an interrupted computation resumes after the last of them.
    `folder/<domain>.key` identifies the images and the model that a file was computed from; a file
    of others is computed again.

    Args:
        folder: Directory of the files, which all hosts share; made if missing.
        strategy: Distributes the computation; the chief of its hosts writes.
    """

    def __init__(self, folder: Path, strategy: tf.distribute.Strategy) -> None:
        self.folder, self._strategy = folder, strategy
        self._is_chief = num_hosts_and_id(strategy)[1] == 0

    def missing(self, records: Mapping[str, Records], model_key: str) -> list[str]:
        """The domains without a file of these images and this model; each host must call it.

        Args:
            records: Images by domain.
            model_key: Identifies the model; see `hash_weights`. Empty: any model.
        """
        domains = [
            domain
            for domain, domain_records in records.items()
            if self._is_chief and not self._is_current(domain, domain_records, model_key)
        ]
        return json.loads(all_gather_text(json.dumps(domains), self._strategy)[0])

    def _is_current(self, domain: str, records: Records, model_key: str) -> bool:
        try:
            rows = np.load(self._path(domain), mmap_mode="r")
            images_key, key = self._key_path(domain).read_text("utf-8").split("\n")
        except (OSError, ValueError, EOFError):
            return False
        is_same_model = model_key in ("", key)
        return (
            rows.ndim == 2
            and len(rows) == len(records)
            and is_same_model
            and (images_key == _hash_images(records))
        )

    def read(self, domains: Iterable[str]) -> dict[str, np.ndarray]:
        """`[N, D]` float32 by domain, memory-mapped."""
        return {domain: np.load(self._path(domain), mmap_mode="r") for domain in domains}

    def compute(
        self,
        records: Mapping[str, Records],
        model_key: str,
        embedder: BlockEmbedder,
        description: str,
        show_progress: bool = True,
    ) -> None:
        """Writes the files of all `records`, from whole images as in evaluation.

        Args:
            records: Images by domain; each host must call it with the same.
            model_key: Identifies the model.
            embedder: The model, or other rows.
            description: Label of the progress bar.
            show_progress: Whether to show the progress bar.
        """
        total = sum(map(len, records.values()))
        with tqdm(total=total, unit="image", desc=description, disable=not show_progress) as bar:
            for domain, domain_records in records.items():
                keys = f"{_hash_images(domain_records)}\n{model_key}"
                with self._open_partial(domain, len(domain_records), keys) as partial:
                    num_done = all_gather_text(str(partial.num_rows), self._strategy)[0]
                    bar.update(int(num_done))
                    for rows in embedder.embed_blocks(domain_records, int(num_done)):
                        partial.append(rows)
                        bar.update(len(rows))
                    partial.finish(self._path(domain))
                if self._is_chief:
                    with atomic_write(self._key_path(domain)) as file:
                        file.write(keys)
        all_gather_text("", self._strategy)  # the other hosts read what the chief has written

    def _open_partial(self, domain: str, num_rows: int, keys: str) -> "_PartialRows":
        if not self._is_chief:
            return _PartialRows(None, num_rows)
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f".{domain}.{hashlib.sha256(keys.encode()).hexdigest()[:16]}.partial"
        for path in self.folder.glob(f".{domain}.*.partial"):
            if path.name != name:
                path.unlink(missing_ok=True)  # of other images, or of another model
        return _PartialRows(self.folder / name, num_rows)

    def _path(self, domain: str) -> Path:
        return self.folder / f"{domain}.npy"

    def _key_path(self, domain: str) -> Path:
        return self.folder / f"{domain}.key"


class _PartialRows:
    """An `.npy` file of `[N, D]` float32 to which rows are appended, now or in the next run.

    Args:
        path: The unfinished file; None, on hosts that do not write, drops the rows.
        total: N.

    Attributes:
        num_rows: Rows in the file.
    """

    def __init__(self, path: Path | None, total: int) -> None:
        self._path, self._total, self.num_rows = path, total, 0
        self._file: IO[bytes] | None = None
        if path is not None and path.exists():
            self._file = path.open("r+b")
            self.num_rows = self._resume(self._file)

    def __enter__(self) -> "_PartialRows":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def append(self, rows: np.ndarray) -> None:
        """Appends `[n, D]` float32."""
        if self._path is None:
            return
        if self._file is None:
            self._file = self._path.open("wb")
            header = {"descr": "<f4", "fortran_order": False, "shape": (self._total, rows.shape[1])}
            np.lib.format.write_array_header_1_0(self._file, header)
        self._file.write(np.ascontiguousarray(rows, "<f4").data)
        self._file.flush()
        self.num_rows += len(rows)

    def finish(self, path: Path) -> None:
        """Gives the file its name, once it has all rows."""
        if self._file is not None and self._path is not None:
            os.fsync(self._file.fileno())
            self._path.replace(path)

    def _resume(self, file: IO[bytes]) -> int:
        """Cuts off what is no whole row, and returns the number of rows."""
        try:
            np.lib.format.read_magic(file)
            (total, dim), _, dtype = np.lib.format.read_array_header_1_0(file)
        except ValueError:  # killed while writing the header
            total, dim, dtype = 0, 1, np.dtype("<f4")
        start = file.tell()
        if (total, dtype) != (self._total, np.dtype("<f4")):
            file.close()
            self._file = None
            return 0
        row_bytes = 4 * dim
        num_rows = min((os.fstat(file.fileno()).st_size - start) // row_bytes, self._total)
        file.seek(start + num_rows * row_bytes)
        file.truncate()
        return num_rows


def hash_weights(model: keras.Model) -> str:
    """sha256 of a model's weights."""
    digest = hashlib.sha256()
    for weight in model.weights:
        digest.update(np.ascontiguousarray(weight.numpy()).tobytes())
    return digest.hexdigest()


def _hash_images(records: Records) -> str:
    digest = hashlib.sha256(f"{records.domain} {records.split}".encode())
    for image_id in records.image_ids:
        digest.update(f"\n{image_id}".encode())
    return digest.hexdigest()


def cache_features(
    folder: Path,
    records: Mapping[str, Records],
    model: EmbeddingModel,
    strategy: tf.distribute.Strategy,
    batch_size: int = 64,
    show_progress: bool = True,
) -> dict[str, np.ndarray]:
    """Reads the backbone's features of all images, after computing those that are missing.

    Args:
        folder: Directory of the cache.
        records: Images by domain.
        model: Its backbone computes the features, which are not standardized yet.
        strategy: Distributes the computation.
        batch_size: Images per replica.
        show_progress: Whether to show a progress bar.

    Returns:
        `[N, F]` float32 by domain, memory-mapped where there is one backbone.
    """
    towers = cache_tower_features(folder, records, model, strategy, batch_size, show_progress)
    if len(towers) == 1:
        return towers[0]
    return {domain: np.concatenate([rows[domain] for rows in towers], axis=1) for domain in records}


def cache_tower_features(
    folder: Path,
    records: Mapping[str, Records],
    model: EmbeddingModel,
    strategy: tf.distribute.Strategy,
    batch_size: int = 64,
    show_progress: bool = True,
    is_shared: bool = False,
) -> list[dict[str, np.ndarray]]:
    """Reads the features of each of several joined backbones; see `cache_features`.

    Each has a folder of its own, so that another combination computes only what is new.

    Args:
        folder: As of `cache_features`.
        records: As of `cache_features`.
        model: As of `cache_features`.
        strategy: As of `cache_features`.
        batch_size: As of `cache_features`.
        show_progress: As of `cache_features`.
        is_shared: Whether other runs use the folder too; then a single backbone also has a folder
            of its own.

    Returns:
        For each backbone `[N, F_i]` float32 by domain, memory-mapped.
    """
    tables = []
    for index, tower in enumerate(list_towers(model.backbone)):
        model_key = f"{hash_weights(tower)} {model.image_size} {model.resize_mode}"
        is_fused = isinstance(model.backbone, FusedBackbone)
        if is_fused:
            model_key += f" {model.backbone.tower_sizes[index]}"
        name = hashlib.sha256(model_key.encode()).hexdigest()[:16]
        cache = FeatureCache(folder / name if is_fused or is_shared else folder, strategy)
        missing = cache.missing(records, model_key)
        if missing:
            embedder = RecordEmbedder(
                functools.partial(model.tower_features, index),
                strategy,
                model.image_size,
                model.resize_mode,
                batch_size,
            )
            cache.compute(
                {domain: records[domain] for domain in missing},
                model_key,
                embedder,
                "features",
                show_progress,
            )
        tables.append(cache.read(records))
    return tables
