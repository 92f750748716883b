"""Submission zips: written with exactly the scorer's files, read without trusting them."""

import contextlib
import hashlib
import lzma
import os
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING

from universal_embedding.errors import UserError, printable
from universal_embedding.files import atomic_write, scratch_directory

if TYPE_CHECKING:
    from universal_embedding.models.embedding_model import EmbeddingModel

FILES = (
    "saved_model.pb",
    "variables/variables.data-00000-of-00001",
    "variables/variables.index",
)
MAX_EMBEDDING_DIM = 64  # a rule of the competition
MAX_BYTES = 8 * 2**30  # extracted; the largest backbone in use here is below 3 GiB
MAX_MEMBERS = 1000

_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,  # another compression
    RuntimeError,  # encrypted
    ValueError,  # a name that is not UTF-8
    struct.error,
    lzma.LZMAError,
)
_CHUNK_BYTES = 1 << 20


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
    with scratch_directory(path) as scratch:
        saved_model = Path(directory or scratch / "saved_model")
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
    """Extracts the files of a SavedModel from a submission into `directory`.

    Raises:
        UserError: The file is not a zip, lacks a file of a SavedModel, holds an absolute path, `..`
            or a link, extracts to more than `max_bytes`, or does not fit on the disk.
    """
    with _open_zip(path, max_bytes) as archive:
        os.makedirs(directory, exist_ok=True)
        size = sum(archive.getinfo(name).file_size for name in FILES)
        free = shutil.disk_usage(directory).free
        if size > free:
            raise UserError(
                f"{path} extracts to {size:,} bytes and {directory} has {free:,} left: free some "
                "space, or set TMPDIR to another disk"
            )
        for name in FILES:
            archive.extract(name, directory)


def fingerprint(path: str | os.PathLike) -> str:
    """sha256 of the files of a SavedModel, equal for a directory and for its zip.

    Raises:
        UserError: The zip is damaged or unsafe.
    """
    digest = hashlib.sha256()
    if Path(path).is_dir():
        for file in filter(Path.is_file, (Path(path) / name for name in FILES)):
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
        return digest.hexdigest()
    with _open_zip(path, MAX_BYTES) as archive:
        for name in FILES:
            member = hashlib.sha256()
            with archive.open(name) as stream:
                while chunk := stream.read(_CHUNK_BYTES):
                    member.update(chunk)
            digest.update(member.digest())
    return digest.hexdigest()


@contextlib.contextmanager
def _open_zip(path: str | os.PathLike, max_bytes: int) -> Iterator[zipfile.ZipFile]:
    """Opens a submission whose members are safe; damage raises `UserError` in the block too."""
    if not os.path.isfile(path):
        problem = "is not a file" if os.path.exists(path) else "does not exist"
        raise UserError(f"{path} {problem}: give the zip that `universal-embedding export` wrote")
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(path, archive.infolist(), max_bytes)
            yield archive
    except _ZIP_ERRORS as error:
        reason = printable(str(error) or type(error).__name__)
        raise UserError(f"{path} cannot be extracted ({reason}): export it again") from None


def _check_members(
    path: str | os.PathLike, members: Sequence[zipfile.ZipInfo], max_bytes: int
) -> None:
    if len(members) > MAX_MEMBERS:
        raise UserError(f"{path} holds {len(members):,} files, more than {MAX_MEMBERS:,}: refused")
    for member in members:
        name = member.filename
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if name.startswith(("/", "\\")) or ":" in "".join(parts[:1]) or ".." in parts:
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
