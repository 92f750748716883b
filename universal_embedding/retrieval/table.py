"""Embeddings in a file, `.npz`, from any framework: one row for each picture."""

from pathlib import Path

import numpy as np

from universal_embedding.datasets.records import Records
from universal_embedding.errors import UserError

_ARRAYS = ("domain", "image_id", "embedding")


class EmbeddingTable:
    """Looks embeddings up by domain and image id.

    Args:
        path: An `.npz` with `domain` `[N]` and `image_id` `[N]`, strings, and `embedding` `[N, D]`,
            numbers.

    Raises:
        UserError: The file is missing or unlike that, or gives a picture two rows.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = path
        domains, ids, self.embeddings = _read(Path(path))
        keys = zip(domains.tolist(), ids.tolist(), strict=True)
        self._rows = {key: row for row, key in enumerate(keys)}
        if len(self._rows) < len(ids):
            twice = len(ids) - len(self._rows)
            raise UserError(f"{path} has more than one row for {twice} pictures: keep one of each")

    def __call__(self, records: Records) -> np.ndarray:
        """`[N, D]` float32, the rows of these pictures in their order.

        Raises:
            UserError: A picture has no row.
        """
        keys = [(records.domain, str(image_id)) for image_id in records.image_ids]
        missing = [key for key in keys if key not in self._rows]
        if missing:
            raise UserError(
                f"{self.path} has no row for {len(missing)} of the {len(keys)} pictures of "
                f"{records.domain} {records.split}, the first being image_id={missing[0][1]!r}: "
                "add them, named like the records"
            )
        return np.asarray(self.embeddings[[self._rows[key] for key in keys]], np.float32)


def write(path: str | Path, parts: list[tuple[Records, np.ndarray]]) -> None:
    """Writes the embeddings of some records, so that `EmbeddingTable` reads them."""
    rows = {}
    for records, embeddings in parts:
        for image_id, embedding in zip(records.image_ids, embeddings, strict=True):
            rows[records.domain, str(image_id)] = embedding
    np.savez(
        path,
        domain=np.array([domain for domain, _ in rows], str),
        image_id=np.array([image_id for _, image_id in rows], str),
        embedding=np.stack(list(rows.values())),
    )


def _read(path: Path) -> list[np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in _ARRAYS if name not in file]
            if missing:
                raise UserError(f"{path} has arrays {file.files}, but none called {missing[0]!r}")
            domains, ids, embeddings = (file[name] for name in _ARRAYS)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read as .npz with string arrays `domain` and `image_id` and a "
            f"number array `embedding`: {error}"
        ) from error
    numbers = embeddings.ndim == 2 and np.issubdtype(embeddings.dtype, np.floating)
    if not numbers or not len(domains) == len(ids) == len(embeddings):
        raise UserError(
            f"{path} has domain {domains.shape}, image_id {ids.shape} and embedding "
            f"{embeddings.shape} {embeddings.dtype}; wanted are [N], [N] and [N, D] floating point"
        )
    return [domains.astype(str), ids.astype(str), embeddings]
