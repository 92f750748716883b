"""Builds an index of files of embeddings, shard by shard; memory holds the rows of one.

The folder of the shards is named after a hash of the files and of the settings, so that a killed
build resumes with the shards that are missing. index.json is replaced when all are there: until
then, readers see the older index or none.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from universal_embedding.app.index_files import META, is_unfinished, remove_tree
from universal_embedding.app.index_update import LOCK_FILE
from universal_embedding.app.vector_files import (
    BLOCK,
    VectorFile,
    find_categories,
    import_pyarrow,
    list_vector_files,
    read_origin,
)
from universal_embedding.app.vector_index import FORMAT, VectorIndexMeta, is_vector_index
from universal_embedding.datasets.lock import hold_lock
from universal_embedding.errors import UserError
from universal_embedding.files import as_path, atomic_write, is_remote
from universal_embedding.search.checksums import list_checksums
from universal_embedding.search.exact import exact_search
from universal_embedding.search.index_rows import RowCodec
from universal_embedding.search.rescored import RescoredSearch
from universal_embedding.search.scann_index import ScannIndex
from universal_embedding.search.sharded import ROWS_PER_SHARD, ShardedIndex

EXACT_BELOW = 500_000  # rows that are searched exactly if nothing else is asked
MAX_SHARD_FLOATS = 64 * ROWS_PER_SHARD


@dataclass(frozen=True)
class VectorIndexConfig:
    """Settings of a build.

    Attributes:
        rows_per_shard: Rows in every shard but the last; by default ten million, fewer if they
            have more than 64 numbers.
        dtype: Format of the rows: `int8`, `bfloat16`, `float16` or `float32`.
        search: `exact`, `approximate`, or None for exact below `EXACT_BELOW` rows.
        target_recall: Recall@5 that approximate search is tuned to reach.
        build_gflop: Largest cost of building a shard; see `scann_tuner.build_cost`.
    """

    rows_per_shard: int | None = None
    dtype: str = "int8"
    search: str | None = None
    target_recall: float = 0.99
    build_gflop: float | None = None


@dataclass(frozen=True)
class VectorIndexSummary:
    """Counts of a build: rows, those without an embedding, shards, those built by this call."""

    num_rows: int
    num_empty: int
    num_shards: int
    num_built: int


def build_vector_index(
    source: str | Path,
    directory: Path,
    config: VectorIndexConfig,
    images_dir: Path | None = None,
) -> VectorIndexSummary:
    """Makes an index of files of embeddings, or finishes one; an older one is replaced at the end.

    Args:
        source: A directory or file of embeddings; see `vector_files`.
        directory: The index.
        config: Settings of the build.
        images_dir: The folder that the names are relative to; by default the one that `embed` read,
            if it still exists.

    Raises:
        UserError: The embeddings are missing, damaged, unfinished or of several sizes, or something
            else is at `directory`.
    """
    ScannIndex(config.target_recall, config.dtype)  # a wrong setting fails before files are read
    files = list_vector_files(source)
    origin = read_origin(source)
    rows = _Rows(files)
    if "num_images" in origin and len(rows) != origin["num_images"]:
        raise UserError(
            f"{source} holds {len(rows)} of {origin['num_images']} embeddings: run `embed` again, "
            "it makes the parts that are missing"
        )
    directory = Path(os.path.realpath(directory))
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory} is a file; name a directory for the index")
    directory.mkdir(parents=True, exist_ok=True)
    with hold_lock(directory / LOCK_FILE, directory):
        _check_directory(directory)
        codec, num_empty = rows.scan(config.dtype)
        version = _make_version(files, config)
        folder = directory / f"shards-{version}"
        is_exact = config.search == "exact" or (
            config.search is None and len(rows) - num_empty < EXACT_BELOW
        )
        step = config.rows_per_shard or min(ROWS_PER_SHARD, max(1, MAX_SHARD_FLOATS // rows.dim))
        ranges = [(i, min(i + step, len(rows))) for i in range(0, len(rows), step)]
        blocks = [partial(rows.read, start, stop) for start, stop in ranges]
        make_shard = partial(_make_shard, is_exact, config, codec)
        num_built = 0
        with tqdm(total=len(rows), unit="row", disable=None) as bar:
            for number, shard in ShardedIndex.build(folder, blocks, make_shard):
                num_built += shard is not None
                bar.update(ranges[number][1] - ranges[number][0])
        for number, (start, stop) in enumerate(ranges):
            rows.write_names(start, stop, folder / f"names-{number:05d}.arrow")
        meta = VectorIndexMeta(
            version=version,
            source=os.fspath(source) if is_remote(source) else os.path.realpath(source),
            images_dir=_find_images(images_dir, origin),
            model=str(origin.get("model", "")),
            fingerprint=str(origin.get("fingerprint", "")),
            embedding_dim=rows.dim,
            num_rows=len(rows),
            target_recall=1.0 if is_exact else config.target_recall,
            dtype=config.dtype,
            files=list_checksums(folder, "names-*.arrow"),
        )
        with atomic_write(directory / META) as file:
            file.write(meta.to_json())
        for name in os.listdir(directory):
            if name.startswith("shards-") and name != folder.name:
                remove_tree(directory / name)
    return VectorIndexSummary(len(rows), num_empty, len(ranges), num_built)


class _Rows:
    """The rows of several files as one sequence."""

    def __init__(self, files: Sequence[VectorFile]) -> None:
        self.files = files
        sizes = {file.dim for file in files}
        if len(sizes) > 1:
            other = next(file for file in files if file.dim != files[0].dim)
            raise UserError(
                f"{other.path} has embeddings of {other.dim} numbers and {files[0].path} of "
                f"{files[0].dim}: index those of one model"
            )
        self.dim = files[0].dim
        self._starts = [0, *accumulate(map(len, files))]
        if not len(self):
            raise UserError(f"{files[0].path.parent} holds no rows; make them with `embed`")

    def __len__(self) -> int:
        return self._starts[-1]

    def scan(self, dtype: str) -> tuple[RowCodec, int]:
        """Reads all rows once: the number format that fits them, and how many are not found."""
        largest, num_empty = np.zeros(self.dim, np.float32), 0
        with tqdm(total=len(self), unit="row", desc="check", disable=None) as bar:
            for file in self.files:
                has_error, start = _has_error(file), 0
                for block in file.blocks():
                    np.maximum(largest, np.abs(block).max(0), out=largest)
                    is_empty = ~block.any(1) | has_error[start : start + len(block)]
                    num_empty += int(is_empty.sum())
                    start += len(block)
                    bar.update(len(block))
        if num_empty == len(self):
            raise UserError(f"no row of {self.files[0].path.parent} holds an embedding")
        return RowCodec.fit(dtype, largest[None]), num_empty

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows `[n, D]` float32, and the places `[m]` of those without an embedding."""
        rows, is_empty = (
            np.empty((stop - start, self.dim), np.float32),
            np.empty(stop - start, bool),
        )
        place = 0
        for file, first, last in self._pieces(start, stop):
            has_error = _has_error(file)[first:last]
            begin = place
            for block in file.blocks(first, last):
                rows[place : place + len(block)] = block
                place += len(block)
            is_empty[begin:place] = ~rows[begin:place].any(1) | has_error
        return rows, np.flatnonzero(is_empty)

    def write_names(self, start: int, stop: int, path: Path) -> None:
        """Writes names and categories as an Arrow file that is mapped into memory."""
        pa = import_pyarrow()
        schema = pa.schema([("name", pa.large_string()), ("category", pa.large_string())])
        with atomic_write(path, "wb") as file, pa.ipc.new_file(file, schema) as writer:
            for part, first, last in self._pieces(start, stop):
                table = part.read_table()
                for place in range(first, last, BLOCK):
                    batch = table.slice(place, min(BLOCK, last - place))
                    names = pa.compute.fill_null(batch["name"].cast(pa.large_string()), "")
                    categories = pa.chunked_array([find_categories(batch)], pa.large_string())
                    writer.write_table(pa.table([names, categories], schema=schema))

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[VectorFile, int, int]]:
        """The files of a range of rows, and the range within each."""
        for file, begin in zip(self.files, self._starts, strict=False):
            first, last = max(start - begin, 0), min(stop - begin, len(file))
            if first < last:
                yield file, first, last


def _has_error(file: VectorFile) -> np.ndarray:
    table = file.read_table()
    if "error" not in table.column_names:
        return np.zeros(len(file), bool)
    return table["error"].is_valid().to_numpy(zero_copy_only=False)


def _make_shard(is_exact: bool, config: VectorIndexConfig, codec: RowCodec) -> RescoredSearch:
    search: RescoredSearch
    if is_exact:
        search = exact_search()
        search.dtype = config.dtype
    else:
        search = ScannIndex(config.target_recall, config.dtype, config.build_gflop, on_disk=True)
    search.codec = codec
    return search


def _make_version(files: Sequence[VectorFile], config: VectorIndexConfig) -> str:
    content: Any = [FORMAT, asdict(config), [[file.name, file.digest()] for file in files]]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _check_directory(directory: Path) -> None:
    """Refuses a directory of something else."""
    names = {path.name for path in directory.iterdir()} - {LOCK_FILE}
    others = [n for n in names if not (n.startswith("shards-") or is_unfinished(n) or n == META)]
    if others or (META in names and not is_vector_index(directory)):
        raise UserError(
            f"{directory} holds something else than an index of embeddings "
            f"({min(others, default=META)}); name another --output"
        )


def _find_images(images_dir: Path | None, origin: dict[str, Any]) -> str:
    if images_dir is not None:
        return os.path.realpath(images_dir)
    images = str(origin.get("images", ""))
    if images.endswith(".parquet"):
        images = os.path.dirname(images)
    if images and not is_remote(images) and as_path(images).is_dir():
        return os.path.realpath(as_path(images))
    return ""
