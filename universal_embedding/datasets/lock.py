"""A lock on what several processes may write: a dataset, a run, an index, a leaderboard."""

import contextlib
import fcntl
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from universal_embedding.errors import UserError
from universal_embedding.files import as_path, is_remote

HEARTBEAT_SECONDS = 10.0
SETTLE_SECONDS = 1.0  # two runs that start at the same moment: the later writer keeps the lock


@contextlib.contextmanager
def hold_lock(
    path: str | os.PathLike, subject: str | os.PathLike = "", wait: bool = False
) -> Iterator[None]:
    """Holds the lock file `path` while the block runs.

    On a local disk the kernel holds it, and drops it with the process. A bucket has no locks:
    there, the holder rewrites the file every few seconds, and a run that finds the file watches it
    for a few of these before it takes the lock of a dead run over.

    Args:
        path: The lock file; it stays, on a local disk.
        subject: What it locks, for the error; by default the folder that holds the lock's folder.
        wait: Wait for the holder instead of raising; on a local disk only.

    Raises:
        UserError: Another run holds the lock, or took it over from this one, which was not
            running for a while.
    """
    subject = os.fspath(subject) or os.fspath(as_path(path).parent.parent)
    if is_remote(path):
        holder = _hold_remote(as_path(path), subject)
    else:
        holder = _hold_local(Path(path), subject, wait)
    with holder:
        yield


@contextlib.contextmanager
def _hold_local(path: Path, subject: str, wait: bool) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o664)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise _locked(subject, os.read(descriptor, 200).decode(errors="replace")) from None
        os.truncate(descriptor, 0)
        os.write(descriptor, _describe_process().encode())
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _hold_remote(path: epath.Path, subject: str) -> Iterator[None]:
    name = f"{_describe_process()}, {uuid.uuid4().hex[:8]}"
    wait = threading.Event().wait
    seen = _read(path)
    if seen:
        wait(3 * HEARTBEAT_SECONDS)
        if _read(path) not in ("", seen):
            raise _locked(subject, seen.rpartition(",")[0])
    path.write_text(f"{name}, 0")
    wait(SETTLE_SECONDS)
    if not _read(path).startswith(name):
        raise _locked(subject, _read(path).rpartition(",")[0])
    finished, lost = threading.Event(), threading.Event()

    def beat() -> None:
        count = 0
        while not finished.wait(HEARTBEAT_SECONDS):
            count += 1
            with contextlib.suppress(Exception):  # a network that fails once: the next beat counts
                if not _read(path).startswith(name):
                    lost.set()
                    return
                path.write_text(f"{name}, {count}")

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
        if lost.is_set():
            raise _locked(subject, _read(path).rpartition(",")[0])
    finally:
        finished.set()
        thread.join()
        if not lost.is_set():
            path.unlink(missing_ok=True)


def _describe_process() -> str:
    return f"host {socket.gethostname()}, process {os.getpid()}"


def _read(path: epath.Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def _locked(subject: str, holder: str) -> UserError:
    return UserError(
        f"{subject} is in use by another run ({holder}); wait until it has finished, or use "
        "another directory"
    )
