"""The Kaggle zip: written with exactly the scorer's files, read with suspicion."""

import hashlib
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from universal_embedding.errors import UserError

FILES = (
    "saved_model.pb",
    "variables/variables.data-00000-of-00001",
    "variables/variables.index",
)
MAX_BYTES = 20 * 2**30  # unpacked; the largest backbone in use here is below 3 GiB

BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,  # another compression
    RuntimeError,  # encrypted
    OSError,
)


def pack(saved_model: str | Path, path: str | Path) -> None:
    """Writes the three files that the scorer reads, at the root of the zip at `path`."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in FILES:
            archive.write(Path(saved_model) / name, name)


def unpack(path: str | Path, directory: str | Path, max_bytes: int = MAX_BYTES) -> None:
    """Unpacks a submission into `directory`.

    Raises:
        UserError: The file is no zip, lacks a file of a SavedModel, holds an absolute path, `..`
            or a link, or unpacks to more than `max_bytes`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check(path, archive.infolist(), max_bytes)
            archive.extractall(directory)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: give the zip that tools/export.py wrote") from None
    except BROKEN as error:
        raise UserError(f"{path} cannot be unpacked ({error}): export it again") from None


def fingerprint(directory: str | Path) -> str:
    """sha256 of a SavedModel's files, the same in a directory and unpacked from its zip."""
    digest = hashlib.sha256()
    for path in filter(Path.is_file, (Path(directory) / name for name in FILES)):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _check(path: str | Path, members: list[zipfile.ZipInfo], max_bytes: int) -> None:
    for member in members:
        name = member.filename
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if name.startswith(("/", "\\")) or ":" in parts[0] or ".." in parts:
            raise UserError(f"{path} holds the unsafe path {name!r}: refused")
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise UserError(f"{path} holds {name!r}, a link or a special file: refused")
    size = sum(member.file_size for member in members)
    if size > max_bytes:
        raise UserError(f"{path} unpacks to {size:,} bytes, more than {max_bytes:,}: refused")
    missing = set(FILES) - {member.filename for member in members}
    if missing:
        raise UserError(
            f"{path} has no {min(missing)} at its root: a submission has {', '.join(FILES)}"
        )
