"""Submission zips: written with exactly the scorer's files, read without trusting them."""

import hashlib
import os
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING

from universal_embedding.errors import UserError
from universal_embedding.files import atomic_write

if TYPE_CHECKING:
    from universal_embedding.models.embedding_model import EmbeddingModel

FILES = (
    "saved_model.pb",
    "variables/variables.data-00000-of-00001",
    "variables/variables.index",
)
MAX_EMBEDDING_DIM = 64  # a rule of the competition
MAX_BYTES = 20 * 2**30  # extracted; the largest backbone in use here is below 3 GiB

_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,  # another compression
    RuntimeError,  # encrypted
    OSError,
)


def write_submission(
    model: "EmbeddingModel",
    path: str | os.PathLike,
    directory: str | os.PathLike | None = None,
    float16: bool = False,
) -> None:
    """Writes a submission for Kaggle's scorer: a SavedModel in a zip.

    Args:
        model: The trained model.
        path: The zip to write.
        directory: Directory to write the SavedModel to as well, or None.
        float16: Store kernels in float16; see `saved_model.ServingModule`.

    Raises:
        UserError: The embedding has more than 64 dimensions, or `path` or `directory` is in use.
    """
    from universal_embedding.export.saved_model import save_model

    path = Path(path)
    if model.output_dim > MAX_EMBEDDING_DIM:
        raise UserError(
            f"the embedding has {model.output_dim} dimensions and a submission may have at most "
            f"{MAX_EMBEDDING_DIM}: train a projection of that size, or export a SavedModel alone"
        )
    if path.exists():
        raise UserError(f"{path} already exists: remove it or name another file")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        saved_model = Path(directory or Path(scratch) / "saved_model")
        save_model(model, saved_model, float16)
        with atomic_write(path, "wb") as file:
            make_zip(saved_model, file)


def make_zip(saved_model: str | os.PathLike, file: str | os.PathLike | IO[bytes]) -> None:
    """Writes the three files that the scorer reads to the root of the zip `file`."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in FILES:
            archive.write(Path(saved_model) / name, name)


def extract_zip(
    path: str | os.PathLike, directory: str | os.PathLike, max_bytes: int = MAX_BYTES
) -> None:
    """Extracts a submission into `directory`.

    Raises:
        UserError: The file is not a zip, lacks a file of a SavedModel, holds an absolute path, `..`
            or a link, or extracts to more than `max_bytes`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(path, archive.infolist(), max_bytes)
            archive.extractall(directory)
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist: give the zip that `universal-embedding export` wrote"
        ) from None
    except _ZIP_ERRORS as error:
        raise UserError(f"{path} cannot be extracted ({error}): export it again") from None


def fingerprint(directory: str | os.PathLike) -> str:
    """sha256 of the files of a SavedModel, equal for a directory and for its extracted zip."""
    digest = hashlib.sha256()
    for path in filter(Path.is_file, (Path(directory) / name for name in FILES)):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _check_members(
    path: str | os.PathLike, members: Sequence[zipfile.ZipInfo], max_bytes: int
) -> None:
    for member in members:
        name = member.filename
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if name.startswith(("/", "\\")) or ":" in parts[0] or ".." in parts:
            raise UserError(f"{path} holds the unsafe path {name!r}: refused")
        file_type = stat.S_IFMT(member.external_attr >> 16)
        if file_type not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise UserError(f"{path} holds {name!r}, a link or a special file: refused")
    size = sum(member.file_size for member in members)
    if size > max_bytes:
        raise UserError(f"{path} extracts to {size:,} bytes, more than {max_bytes:,}: refused")
    missing = set(FILES) - {member.filename for member in members}
    if missing:
        raise UserError(
            f"{path} has no {min(missing)} at its root: a submission has {', '.join(FILES)}"
        )
