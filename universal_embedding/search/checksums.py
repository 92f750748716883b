"""Sizes and checksums of the files of a saved index, so that a damaged one is refused."""

import zlib
from collections.abc import Mapping
from pathlib import Path

_CHUNK = 1 << 22


def list_checksums(folder: Path, *patterns: str) -> dict[str, list[int]]:
    """Size and CRC-32 of the files of `folder` that match a pattern, by relative path."""
    paths = [path for pattern in patterns for path in sorted(folder.glob(pattern))]
    return {
        path.relative_to(folder).as_posix(): [path.stat().st_size, _checksum(path)]
        for path in paths
    }


def check_files(folder: Path, files: Mapping[str, list[int]]) -> None:
    """Compares the files below `folder` with what `list_checksums` told of them.

    Raises:
        OSError, ValueError: A file is missing or damaged.
    """
    for name, (size, checksum) in files.items():
        path = folder / name
        if path.stat().st_size != size:
            raise ValueError(f"{name} has {path.stat().st_size} bytes instead of {size}")
        if _checksum(path) != checksum:
            raise ValueError(f"{name} is damaged: its checksum differs")


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            checksum = zlib.crc32(chunk, checksum)
    return checksum
