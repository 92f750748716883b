"""Paths on any file system of TensorFlow, and atomic writes: whole under its name, or not there.

Object stores rename no directories. There, a file is written locally and uploaded as one object,
which replaces the old one at once; the files of a directory are uploaded one by one, so only each
of them is atomic.
"""

import atexit
import contextlib
import errno
import hashlib
import os
import re
import shutil
import socket
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from etils import epath

from universal_embedding.errors import UserError

_CHUNK = 1 << 24  # bytes that are copied at a time


def as_path(path: str | os.PathLike) -> epath.Path:
    """Converts a path that a user gave: `gs://` and its kind stay, `~` is expanded.

    Raises:
        UserError: There is no such kind of file system.
    """
    try:
        converted = epath.Path(path)
    except KeyError as error:
        raise UserError(
            f"{path}: {error.args[0]} is not supported; give a local path or a gs:// one"
        ) from None
    return converted if is_remote(converted) else converted.expanduser()


def is_remote(path: str | os.PathLike) -> bool:
    """Whether only TensorFlow opens `path`, such as `gs://bucket/folder`."""
    return "://" in os.fspath(path)


def local_path(path: str | os.PathLike, name: str) -> Path:
    """Converts a path where only a local one can work.

    Args:
        path: The path.
        name: The flag or argument that it came from.

    Raises:
        UserError: The path is remote.
    """
    if is_remote(path):
        raise UserError(
            f"{name}={os.fspath(path)} must be on a local disk; copy it there, or mount the bucket"
        )
    return Path(path).expanduser()


def fetch(path: str | os.PathLike) -> Path:
    """Copies a remote file or directory to a local disk, for libraries that need it there.

    Returns:
        The copy, under the same name, until the process ends; a local path stays as it is.

    Raises:
        UserError: There is nothing at `path`, or it cannot be read.
    """
    source = as_path(path)
    if not is_remote(source):
        return Path(source)
    scratch = tempfile.TemporaryDirectory(prefix="universal_embedding-")
    atexit.register(scratch.cleanup)
    target = Path(scratch.name) / source.name
    with reporting_storage_errors(source):
        if source.is_dir():
            files = [folder / name for folder, _, names in source.walk() for name in names]
        elif source.exists():
            files = [source]
        else:
            raise UserError(f"{source} does not exist; check the path")
        for file in files:
            copy = target / file.relative_to(source)
            if ".." in copy.parts:
                raise UserError(f"{source} holds the unsafe name {file}: refused")
            copy.parent.mkdir(parents=True, exist_ok=True)
            with file.open("rb") as content, copy.open("wb") as out:
                shutil.copyfileobj(content, out, _CHUNK)
    return target


def scratch_for(path: str | os.PathLike) -> Path:
    """A local directory for files that are mapped into memory, in place of a remote one.

    It is the same in every process of this host, so that a run finds its files again; a local path
    stays as it is.
    """
    if not is_remote(path):
        return Path(path)
    name = hashlib.sha256(os.fspath(path).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"universal_embedding-{name}"


def file_size(path: str | os.PathLike) -> int | None:
    """Bytes of a file, None if it does not exist."""
    # epath's own `stat` looks the owner's name up, which a container may not know.
    try:
        return as_path(path).stat().length if is_remote(path) else os.path.getsize(path)
    except FileNotFoundError:
        return None


def list_directory(path: epath.Path) -> list[epath.Path]:
    """The entries of a directory, sorted; none if there is no such directory.

    Raises:
        UserError: The file system refused.
    """
    try:
        return sorted(path.iterdir(), key=os.fspath)  # not `glob`: `[` in the path means itself
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"cannot list {path}: {error.strerror}; give another folder") from None
    except Exception as error:
        tf = sys.modules.get("tensorflow")
        if tf is not None and isinstance(error, tf.errors.NotFoundError):
            return []
        with reporting_storage_errors(path):
            raise


@contextlib.contextmanager
def reporting_unreadable(path: str | os.PathLike, remedy: str) -> Iterator[None]:
    """Turns whatever a reader raises in this block into one line about `path`.

    Raises:
        UserError: The file is damaged, or cannot be read.
        FileNotFoundError: It is missing; callers know whether it may be.
    """
    try:
        with reporting_storage_errors(path) if is_remote(path) else contextlib.nullcontext():
            yield
    except (UserError, FileNotFoundError):
        raise
    except Exception as error:  # damaged files cause errors of every kind
        message = getattr(error, "strerror", None) or str(error) or type(error).__name__
        reason = " ".join(message.split())[:300]
        raise UserError(f"{os.fspath(path)} cannot be read ({reason}); {remedy}") from error


@contextlib.contextmanager
def reporting_storage_errors(path: str | os.PathLike) -> Iterator[None]:
    """Turns an error of TensorFlow's file systems in this block into one line about `path`.

    Raises:
        UserError: The file system refused, or there is no such bucket.
    """
    try:
        yield
    except Exception as error:
        tf = sys.modules.get("tensorflow")
        if tf is None or not isinstance(error, tf.errors.OpError):
            raise
        reason = " ".join(str(error.message).split())
        raise UserError(
            f"cannot access {os.fspath(path)} ({reason[:300]}); check that its bucket exists and "
            "that you may read and write it"
        ) from error


def check_writable(path: str | os.PathLike, name: str) -> None:
    """Finds out that `atomic_write` will fail before hours of work rather than after them.

    Args:
        path: The file to write.
        name: The flag that it came from.

    Raises:
        UserError: The file cannot be written.
    """
    target = as_path(path)
    if is_remote(target):
        return
    try:
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        parent = next(folder for folder in target.absolute().parents if folder.exists())
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise UserError(
            f"{name}={os.fspath(path)} cannot be written ({error.strerror}); name another file"
        ) from None


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "w") -> Iterator[IO[Any]]:
    """Opens a temporary file that replaces `path` when the block ends.

    If the block raises, `path` stays as it was and the temporary file is removed.

    Args:
        path: The file to write; missing parent directories are made.
        mode: `w` (UTF-8 text) or `wb`.

    Yields:
        The open file, on a local disk.
    """
    target = as_path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    encoding = None if "b" in mode else "utf-8"
    if is_remote(target):
        with tempfile.TemporaryDirectory() as folder:
            partial = Path(folder) / target.name
            with partial.open(mode, encoding=encoding) as file:
                yield file
            _upload(partial, target)
        return
    path = Path(os.path.realpath(target))  # a link stays a link
    _remove_abandoned(path.parent)
    partial = _partial_name(path)
    try:
        with partial.open(mode, encoding=encoding) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync_directory(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike) -> Iterator[Path]:
    """Makes a temporary directory that becomes `path` when the block ends.

    If the block raises, `path` stays as it was and the temporary directory is removed. `path` must
    be missing or empty, before the block and after it: nothing is ever removed. On an object store,
    the files appear one by one, in sorted order.

    Yields:
        The temporary directory, empty, on a local disk.

    Raises:
        UserError: `path` is a file, or holds something.
    """
    target = as_path(path)
    _check_unused(target)
    if is_remote(target):
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
            _check_unused(target)
            upload_directory(Path(folder), target)
        return
    path = Path(os.path.realpath(target))
    with scratch_directory(path) as partial:
        yield partial
        for folder, _, files in os.walk(partial):
            for file in files:
                with open(Path(folder, file), "rb") as written:
                    os.fsync(written.fileno())
        _check_unused(path)
        partial.rename(path)  # fails if `path` was filled since
        sync_directory(path.parent)


@contextlib.contextmanager
def scratch_directory(path: str | os.PathLike) -> Iterator[Path]:
    """Makes a temporary directory beside a local `path`, on the same disk; removed afterwards.

    That of a killed process is removed by the next call.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path.parent)
    partial = _partial_name(path)
    partial.mkdir()
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_unused(path: epath.Path) -> None:
    if list_directory(path) or (path.exists() and not path.is_dir()):
        raise UserError(f"{path} already exists: remove it or name another directory")


def sync_directory(path: Path) -> None:
    """Makes a rename survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems cannot
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_abandoned(directory: Path) -> None:
    """Removes what killed processes of this host left unfinished in `directory`."""
    pattern = re.compile(rf"\..+\.{re.escape(socket.gethostname())}-(\d+)-[0-9a-f]{{8}}\.partial")
    for name in os.listdir(directory):
        match = pattern.fullmatch(name)
        if match and not _is_running(int(match[1])):
            partial = directory / name
            if partial.is_dir():
                shutil.rmtree(partial, ignore_errors=True)
            else:
                partial.unlink(missing_ok=True)


def _is_running(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        pass
    return True


def _upload(file: Path, target: epath.Path) -> None:
    with reporting_storage_errors(target), file.open("rb") as source, target.open("wb") as out:
        shutil.copyfileobj(source, out, _CHUNK)


def upload_directory(folder: Path, target: epath.Path) -> None:
    """Copies the files of a local directory into a remote one, in sorted order."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        _upload(folder / name, target / name)


def _partial_name(path: Path) -> Path:
    # A process id alone is no name on a disk that several hosts share.
    unique = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    return path.with_name(f".{path.name}.{unique}.partial")
