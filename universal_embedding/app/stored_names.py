"""The names of the rows of an index of embeddings, on disk until they are asked for."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from universal_embedding.app.vector_files import import_pyarrow


class StoredNames:
    """The names and categories of all rows, mapped into memory from Arrow files.

    Args:
        paths: The files, in the order of the rows, each with columns `name` and `category`.

    Raises:
        OSError, pyarrow.ArrowException: A file is missing or damaged.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        pa = import_pyarrow()
        self.table = pa.concat_tables(
            [pa.ipc.open_file(pa.memory_map(str(path))).read_all() for path in paths]
        )

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> str:
        return self.table["name"][index].as_py()

    def category(self, index: int) -> str:
        """The category of a row; empty if it has none."""
        return self.table["category"][index].as_py()

    def count_categories(self, rows: np.ndarray) -> dict[str, int]:
        """The number of the rows `[M]` in each category."""
        pa = import_pyarrow()
        counted = pa.compute.value_counts(self.table["category"].take(pa.array(rows)))
        return {entry["values"]: entry["counts"] for entry in counted.to_pylist()}
