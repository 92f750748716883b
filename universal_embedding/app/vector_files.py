"""Vectors in files, of `embed` or of another program, all read as the same thing: named unit rows.

A directory, or one file, of
- `NAME.npy` `[N, D]`, with `NAME.parquet` of N rows beside it or without: columns `name`, and
  perhaps `label` (text or a list of it) and `error`, which tells why a row is no embedding;
- `NAME.npz` with `embedding` `[N, D]`, and perhaps `image_id` or `name`, and `label`, `[N]` text.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epath

from universal_embedding.app.image_sources import read_table
from universal_embedding.errors import UserError
from universal_embedding.files import as_path, is_remote, list_directory, reporting_unreadable

if TYPE_CHECKING:
    import pyarrow as pa

META = "embeddings.json"
BLOCK = 1 << 16  # rows that are read at once
_REMEDY = "remove it and make it again"


@dataclass(frozen=True)
class VectorFile:
    """One file of vectors.

    Args:
        path: A `.npy` or an `.npz`.
    """

    path: epath.Path

    @property
    def name(self) -> str:
        """The name of the file without its ending."""
        return self.path.stem

    @cached_property
    def shape(self) -> tuple[int, int]:
        """N and D.

        Raises:
            UserError: The file is damaged, or holds no matrix of numbers.
        """
        codes = self._open()
        if codes.ndim != 2 or codes.dtype.kind not in "fiu":
            raise UserError(
                f"{self.path} has shape {codes.shape} of {codes.dtype}; it must be [N, D] numbers"
            )
        return codes.shape

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def dim(self) -> int:
        """D."""
        return self.shape[1]

    def read_table(self) -> "pa.Table":
        """Reads N rows of `name`, and perhaps of `label` and `error`.

        Raises:
            UserError: It is damaged, or has not N rows.
        """
        pa = import_pyarrow()
        if self.path.suffix == ".npz":
            arrays = self._load_archive()
            columns = {n: arrays[n].astype(str) for n in arrays if n != "embedding"}
            names = columns.get("name", columns.get("image_id"))
            table = pa.table({"name": pa.array(self._make_names() if names is None else names)})
            if "label" in columns:
                table = table.append_column("label", pa.array(columns["label"]))
        elif self.path.with_suffix(".parquet").exists():
            table = read_table(self.path.with_suffix(".parquet"), _REMEDY)
        else:
            table = pa.table({"name": self._make_names()})
        if len(table) != len(self):
            raise UserError(
                f"{self.path} has shape {self.shape} and {len(table)} names; they must be "
                "[N, D] and N"
            )
        return table

    def read(self) -> np.ndarray:
        """All rows as `[N, D]` float32 at unit length; rows of zeros stay.

        Raises:
            UserError: A row is not finite.
        """
        return np.concatenate([np.zeros((0, self.dim), np.float32), *self.blocks()])

    def blocks(self, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """Reads rows in order, `BLOCK` at a time; see `read`."""
        stop = len(self) if stop is None else stop
        codes = self._open()
        for first in range(start, stop, BLOCK):
            rows = codes[first : min(first + BLOCK, stop)].astype(np.float32)
            norms = np.linalg.norm(rows, axis=1, keepdims=True)
            if not np.isfinite(norms).all():
                row = first + int(np.flatnonzero(~np.isfinite(norms))[0])
                raise UserError(f"row {row} of {self.path} is not finite; {_REMEDY}")
            yield np.divide(rows, norms, out=rows, where=norms > 0)

    def digest(self) -> str:
        """sha256 of the file and of its table."""
        digest = hashlib.sha256()
        for path in (self.path, self.path.with_suffix(".parquet")):
            if path.exists():
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def _open(self) -> np.ndarray:
        """The numbers as they are stored; those of a local .npy stay on disk until used.

        Nothing of it is kept: a directory may have more files than a process may open.
        """
        if self.path.suffix == ".npz":
            return self._load_archive()["embedding"]
        with reporting_unreadable(self.path, _REMEDY):
            if is_remote(self.path):
                with self.path.open("rb") as file:
                    return np.load(file, allow_pickle=False)
            return np.load(Path(self.path), mmap_mode="r", allow_pickle=False)

    def _load_archive(self) -> dict[str, np.ndarray]:
        with (
            reporting_unreadable(self.path, _REMEDY),
            self.path.open("rb") as file,
            np.load(file, allow_pickle=False) as arrays,
        ):
            wanted = {"embedding", "name", "image_id", "label"} & set(arrays.files)
            if "embedding" not in wanted:
                raise UserError(
                    f"{self.path} has the arrays {arrays.files} but none called 'embedding'"
                )
            return {name: arrays[name] for name in wanted}

    def _make_names(self) -> list[str]:
        return [f"{self.name}/{i}" for i in range(len(self))]


def list_vector_files(path: str | Path) -> list[VectorFile]:
    """The files of vectors in a directory, in order of their names, or the one file `path`.

    Raises:
        UserError: There are none.
    """
    root = as_path(path)
    files = [root] if root.suffix in (".npy", ".npz") else list_directory(root)
    vectors = [VectorFile(file) for file in files if file.suffix in (".npy", ".npz")]
    if not vectors or not vectors[0].path.exists():
        raise UserError(f"{path} holds no .npy or .npz of embeddings; make them with `embed`")
    return vectors


def read_vectors(path: str | Path) -> Iterator[tuple[str, np.ndarray, "pa.Table"]]:
    """Reads whole files one after the other.

    Yields:
        Name of the file, `[N, D]` float32 unit rows (zeros stay), and its table; see `VectorFile`.

    Raises:
        UserError: There are no files, or one is damaged.
    """
    for file in list_vector_files(path):
        yield file.name, file.read(), file.read_table()


def read_origin(path: str | Path) -> dict[str, Any]:
    """The description that `embed` wrote beside its parts; empty beside other vectors.

    Raises:
        UserError: It is damaged.
    """
    meta = as_path(path) / META
    if not meta.exists():
        return {}
    with reporting_unreadable(meta, f"remove {path} and embed the images again"):
        return dict(json.loads(meta.read_text()))


def find_categories(table: "pa.Table") -> Sequence[str]:
    """The first label of each row, or else the first folder of its name; empty without either."""
    from universal_embedding.app.index_files import find_category

    names = table["name"].to_pylist()
    labels = table["label"].to_pylist() if "label" in table.column_names else [None] * len(names)
    firsts = [label[0] if isinstance(label, list) and label else label for label in labels]
    return [
        str(first) if first else find_category(str(name))
        for first, name in zip(firsts, names, strict=True)
    ]


def import_pyarrow() -> Any:
    """pyarrow, with its compute and parquet modules.

    Raises:
        UserError: It is not installed.
    """
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            f"embeddings in parts need pyarrow ({error}): pip install 'universal-embedding[embed]'"
        ) from None
    return pyarrow
