"""Embeddings of prepared images in files, from any framework, by domain and image id."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epath

from universal_embedding.errors import UserError
from universal_embedding.files import (
    as_path,
    atomic_write,
    is_remote,
    list_directory,
    reporting_unreadable,
)

if TYPE_CHECKING:
    from universal_embedding.datasets.records import Records

_FILES = (".npz", ".npy")
_NPZ_ARRAYS = ("domain", "image_id", "embedding")
_BLOCK = 1 << 14  # rows that are in memory at once
_REMEDY = "make the table again"
_NEEDS = "it must be an .npz of string arrays `domain` and `image_id` and a floating point array"


class EmbeddingTable:
    """Embeddings that are looked up by domain and image id.

    Args:
        path: One of
            an `.npz` with `domain` `[N]` and `image_id` `[N]`, strings, and `embedding` `[N, D]`,
            floating point;
            a `.npy` `[N, D]` with a `.parquet` of N rows beside it, which has the columns
            `image_id` (or `name`) and, if the table is of several domains, `domain`;
            a directory of such pairs, as `universal-embedding embed` writes it for a prepared
            data set. Rows with a text in a column `error` are missing.

    Attributes:
        dim: D.
        has_domains: Whether rows are told apart by domain; otherwise the table is of one domain.

    Raises:
        UserError: The files are missing or of another format, or have two rows for one image.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = as_path(path)
        self.has_domains = True
        self._blocks: list[np.ndarray] = []
        self._places: dict[tuple[str, str], tuple[int, int]] = {}
        num_repeated = 0
        for rows, domains, ids in self._read():
            keys = zip(domains, ids, range(len(ids)), strict=True)
            known = [(domain, image_id, row) for domain, image_id, row in keys if image_id]
            before = len(self._places)
            places = {(domain, i): (len(self._blocks), row) for domain, i, row in known}
            self._places.update(places)
            num_repeated += before + len(known) - len(self._places)
            self._blocks.append(rows)
        if num_repeated:
            raise UserError(
                f"{path} has more than one row for {num_repeated} images: keep one of each"
            )
        sizes = {block.shape[1] for block in self._blocks}
        if len(sizes) != 1:
            raise UserError(f"{path} has embeddings of {sorted(sizes)} dimensions; {_REMEDY}")
        (self.dim,) = sizes

    def __call__(self, records: "Records") -> np.ndarray:
        """Looks up `[N, D]` float32, the rows of the N records in their order.

        Raises:
            UserError: A record has no row.
        """
        return np.concatenate([np.zeros((0, self.dim), np.float32), *self.embed_blocks(records)])

    def embed_blocks(self, records: "Records", start: int = 0) -> Iterator[np.ndarray]:
        """Yields the rows of the records from `start` on, `[n, D]` float32 by block, in order.

        Raises:
            UserError: A record has no row.
        """
        domain = records.domain if self.has_domains else ""
        keys = [(domain, str(image_id)) for image_id in records.image_ids]
        missing = [key for key in keys if key not in self._places]
        if missing:
            raise UserError(
                f"{self.path} has no row for {len(missing)} of the {len(keys)} images of "
                f"{records.domain} {records.split}, the first being image_id={missing[0][1]!r}: "
                "add rows with the image ids of the records"
            )
        for first in range(start, len(keys), _BLOCK):
            places = [self._places[key] for key in keys[first : first + _BLOCK]]
            parts, rows = np.array(places).T
            result = np.empty((len(rows), self.dim), np.float32)
            for part in np.unique(parts):
                mask = parts == part
                result[mask] = self._blocks[part][rows[mask]]
            yield result

    def _read(self) -> Iterator[tuple[np.ndarray, Sequence[str], Sequence[str]]]:
        """Rows, domains and ids of each file; ids of rows with an error are empty."""
        if self.path.suffix == ".npz":
            domains, ids, embeddings = _read_npz(self.path)
            yield embeddings, domains.tolist(), ids.tolist()
            return
        files = [self.path] if self.path.suffix == ".npy" else _list_parts(self.path)
        for file in files:
            rows, columns = _read_part(file)
            names = columns.get("image_id") or columns["name"]
            self.has_domains = "domain" in columns
            yield rows, columns.get("domain", [""] * len(names)), names


def is_table(path: str | Path) -> bool:
    """Whether a path names a table of embeddings, by its ending or the files in its directory."""
    root = as_path(path)
    return root.suffix in _FILES or bool(_list_parts(root))


def fingerprint_files(path: str | Path) -> str:
    """Names, sizes and times of a file or a table: another text once they were replaced.

    Returns:
        "" if there is nothing.
    """
    root = as_path(path)
    files = _list_parts(root) or [root]
    tables = [file.with_suffix(".parquet") for file in files if file.suffix == ".npy"]
    return " ".join(filter(None, map(_fingerprint_file, [*files, *tables])))


def _fingerprint_file(path: epath.Path) -> str:
    try:
        if is_remote(path):
            remote = path.stat()
            return f"{path.name} {remote.length} {remote.mtime}"
        local = os.stat(path)
    except FileNotFoundError:
        return ""
    return f"{path.name} {local.st_size} {local.st_mtime_ns}"


def write_npz(path: str | Path, record_embeddings: Sequence[tuple["Records", np.ndarray]]) -> None:
    """Writes the `[N, D]` embeddings of records as a file that `EmbeddingTable` reads."""
    rows = {}
    for records, embeddings in record_embeddings:
        for image_id, embedding in zip(records.image_ids, embeddings, strict=True):
            rows[records.domain, str(image_id)] = embedding
    with atomic_write(path, "wb") as file:
        np.savez(
            file,
            domain=np.array([domain for domain, _ in rows], str),
            image_id=np.array([image_id for _, image_id in rows], str),
            embedding=np.stack(list(rows.values())),
        )


def _list_parts(directory: epath.Path) -> list[epath.Path]:
    return [path for path in list_directory(directory) if path.suffix == ".npy"]


def _read_part(path: epath.Path) -> tuple[np.ndarray, dict[str, list]]:
    """The rows of a .npy, which stay on a local disk until used, and the columns beside it."""
    table_path = path.with_suffix(".parquet")
    try:
        with reporting_unreadable(path, _REMEDY):
            if is_remote(path):
                with path.open("rb") as file:
                    rows = np.load(file, allow_pickle=False)
            else:
                rows = np.load(Path(path), mmap_mode="r", allow_pickle=False)
        columns = _read_parquet(table_path)
    except FileNotFoundError as error:
        raise UserError(
            f"{error.filename or table_path} does not exist; a table is a .npy and a .parquet of "
            "the same name, with the columns image_id and domain"
        ) from None
    count = len(next(iter(columns.values())))
    if rows.ndim != 2 or rows.dtype.kind not in "fi" or len(rows) != count:
        raise UserError(
            f"{path} has shape {rows.shape} {rows.dtype} and its .parquet {count} rows; they must "
            "be [N, D] numbers and N rows"
        )
    return rows, columns


def _read_parquet(path: epath.Path) -> dict[str, list]:
    parquet = _import_parquet()
    with reporting_unreadable(path, _REMEDY), path.open("rb") as file:
        source = parquet.ParquetFile(file, page_checksum_verification=True)
        wanted = ("image_id", "name", "domain", "error")
        names = [name for name in wanted if name in source.schema_arrow.names]
        if not {"image_id", "name"} & set(names):
            raise ValueError(f"its columns are {source.schema_arrow.names}, without image_id")
        columns = source.read(columns=names).to_pydict()
    errors = columns.pop("error", None)
    if errors is not None:
        for name in {"image_id", "name"} & set(columns):
            columns[name] = ["" if e else i for i, e in zip(columns[name], errors, strict=True)]
    return columns


def _import_parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            f"a table in .parquet needs pyarrow ({error}): pip install 'universal-embedding[embed]'"
        ) from None
    return pyarrow.parquet


def _read_npz(path: epath.Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    try:
        with (
            reporting_unreadable(path, f"{_NEEDS} `embedding`"),
            path.open("rb") as archive,
            np.load(archive, allow_pickle=False) as file,
        ):
            missing = [name for name in _NPZ_ARRAYS if name not in file]
            if missing:
                raise UserError(
                    f"{path} has the arrays {file.files} but none called {missing[0]!r}: an .npz "
                    f"of embeddings needs {', '.join(_NPZ_ARRAYS)}"
                )
            domains, ids, embeddings = (file[name] for name in _NPZ_ARRAYS)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; {_NEEDS} `embedding`") from None
    is_matrix = embeddings.ndim == 2 and np.issubdtype(embeddings.dtype, np.floating)
    if not is_matrix or not domains.shape == ids.shape == embeddings.shape[:1]:
        raise UserError(
            f"{path} has domain {domains.shape}, image_id {ids.shape} and embedding "
            f"{embeddings.shape} {embeddings.dtype}; they must be [N], [N] and [N, D] floating "
            "point"
        )
    return domains.astype(str), ids.astype(str), embeddings
