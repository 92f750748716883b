"""Local leaderboard: one JSON line for each scored submission."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from universal_embedding.datasets.lock import hold_lock
from universal_embedding.errors import UserError, printable

RANKED_BY = ("private", "total")  # Kaggle ranks by the private score


def append(path: str | Path, entry: Mapping[str, Any]) -> None:
    """Appends an entry.

    Args:
        path: The leaderboard file.
        entry: `date`, `name`, `fingerprint`, `solution`, the scores, and whatever else to keep.
    """
    with _locked(path), open(path, "ab+") as file:
        if file.tell() and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n":
            file.write(b"\n")  # after a line that was torn, or edited by hand
        file.write(json.dumps(entry).encode() + b"\n")


def check_writable(path: str | Path) -> None:
    """Raises UserError unless `append` can write: before hours of work, not after them."""
    path = Path(path)
    if path.exists() and path.stat().st_size:
        with reporting_unwritable(path), path.open("rb") as file:
            first = file.readline(1 << 20).lstrip(b"\xef\xbb\xbf \r\n")
        if first and not first.startswith(b"{"):
            raise UserError(f"{path} is not a leaderboard: give another --leaderboard")
    with _locked(path), reporting_unwritable(path), path.open("ab"):
        pass


@contextlib.contextmanager
def reporting_unwritable(path: Path) -> Iterator[None]:
    """Raises `UserError` for an error of the file system in this block."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}): give another --leaderboard"
        ) from None


@contextlib.contextmanager
def _locked(path: str | Path) -> Iterator[None]:
    path = Path(path)
    with reporting_unwritable(path), contextlib.ExitStack() as stack:
        stack.enter_context(hold_lock(path.with_name(f".{path.name}.lock"), path, wait=True))
        yield


def ranking(path: str | Path, solution: str) -> list[dict[str, Any]]:
    """The last entry of each submission scored against `solution`, best first.

    Args:
        path: The leaderboard file.
        solution: Fingerprint of a solution; scores against different ones are not comparable.

    A damaged line is left out with a warning; other entries do not depend on it.
    """
    last = {}
    for number, line in enumerate(Path(path).read_bytes().splitlines(), 1):
        text = line.lstrip(b"\xef\xbb\xbf").strip()
        if not text:
            continue
        try:
            entry = json.loads(text)
            scores = [entry[name] for name in ("private", "public", "total")]
            texts = [entry[name] for name in ("date", "name", "fingerprint", "solution")]
            if not all(s is None or isinstance(s, int | float) for s in scores):
                raise ValueError("a score is not a number")
            if not all(isinstance(text, str) for text in texts):
                raise ValueError("a name is not text")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            logging.warning("%s line %d is damaged (%s) and left out", path, number, error)
            continue
        if entry["solution"] == solution:
            last[entry["fingerprint"]] = entry
    return sorted(last.values(), key=_sort_key, reverse=True)


def format_table(entries: Sequence[Mapping[str, Any]], current: str) -> str:
    """The ranking as text; an arrow marks the submission with fingerprint `current`."""
    names = ("private", "public", "total")
    lines = [f"  rank  {'  '.join(f'{name:>8}' for name in names)}  date        submission"]
    for rank, entry in enumerate(entries, 1):
        mark = "->" if entry["fingerprint"] == current else ""
        date, name = printable(entry["date"][:10]), printable(entry["name"])
        scores = "  ".join(f"{_format_score(entry[name]):>8}" for name in names)
        lines.append(f"{mark:2}{rank:4}  {scores}  {date}  {name}")
    return "\n".join(lines)


def _sort_key(entry: Mapping[str, Any]) -> list[float]:
    return [-1.0 if entry[name] is None else entry[name] for name in RANKED_BY]


def _format_score(score: float | None) -> str:
    return "none" if score is None else f"{score:.6f}"
