"""Files of embeddings as a source of an evaluation: prepared images are looked up by name."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from etils import epath

from universal_embedding.app.vector_files import VectorFile, list_vector_files
from universal_embedding.errors import UserError
from universal_embedding.evaluation.embed import EmbeddingSource
from universal_embedding.files import as_path, list_directory

if TYPE_CHECKING:
    from universal_embedding.datasets.records import Records


class StoredEmbeddings:
    """Embeddings of prepared images, in files that `embed` or another program wrote.

    Args:
        path: A directory or file of embeddings whose names are the image ids of the records. Where
            it has a folder called like the domain, only files below that folder are used.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = as_path(path)

    def __call__(self, records: "Records") -> np.ndarray:
        """Looks up `[N, D]` float32, the rows of the N records in their order.

        Raises:
            UserError: A record has no row or several, or a file is damaged.
        """
        wanted = {str(image_id): i for i, image_id in enumerate(records.image_ids)}
        rows: np.ndarray | None = None
        is_found = np.zeros(len(records), bool)
        for file in self._list_files(records.domain):
            places = [wanted.get(name, -1) for name in file.read_table()["name"].to_pylist()]
            selected = np.flatnonzero(np.array(places, np.int64) >= 0)
            if not len(selected):
                continue
            indices = np.array(places)[selected]
            if is_found[indices].any() or len(np.unique(indices)) < len(indices):
                raise UserError(
                    f"{self.path} has two rows for an image of {records.domain} {records.split}; "
                    f"the second is in {file.path.name}: keep one of each"
                )
            block = file.read()[selected]
            if rows is None:
                rows = np.zeros((len(records), file.dim), np.float32)
            if file.dim != rows.shape[1]:
                raise UserError(
                    f"{file.path} has embeddings of {file.dim} numbers, the files before it of "
                    f"{rows.shape[1]}: evaluate those of one model"
                )
            rows[indices] = block
            is_found[indices] = block.any(1)
        if rows is None or not is_found.all():
            missing = np.flatnonzero(~is_found)
            raise UserError(
                f"{self.path} has no embedding for {len(missing)} of the {len(records)} images of "
                f"{records.domain} {records.split}, the first being "
                f"{records.image_ids[missing[0]]!r}: run `embed --images=` on their folder"
            )
        return rows

    def _list_files(self, domain: str) -> Iterator[VectorFile]:
        if self.path.is_file():
            yield from list_vector_files(self.path)
            return
        below = self.path / domain
        folders = [below if below.is_dir() else self.path]
        while folders:
            entries = list_directory(folders.pop())
            yield from (VectorFile(e) for e in entries if e.suffix in (".npy", ".npz"))
            folders += [e for e in reversed(entries) if _is_folder(e)]


def stored_source(path: str | Path) -> EmbeddingSource:
    """Makes a source of files of embeddings; see `StoredEmbeddings`."""
    return EmbeddingSource(Path(os.fspath(path)).name, StoredEmbeddings(path))


def _is_folder(path: epath.Path) -> bool:
    return not path.name.startswith(".") and path.is_dir()
