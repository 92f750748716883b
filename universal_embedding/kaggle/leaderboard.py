"""Local leaderboard: one JSON line for each scored submission."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from universal_embedding.errors import UserError

RANKED_BY = ("private", "total")  # Kaggle ranks by the private score


def append(path: str | Path, entry: Mapping[str, Any]) -> None:
    """Appends an entry.

    Args:
        path: The leaderboard file.
        entry: `date`, `name`, `fingerprint`, `solution`, the scores, and whatever else to keep.
    """
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def ranking(path: str | Path, solution: str) -> list[dict[str, Any]]:
    """The last entry of each submission scored against `solution`, best first.

    Args:
        path: The leaderboard file.
        solution: Fingerprint of a solution; scores against different ones are not comparable.

    Raises:
        UserError: A line is damaged.
    """
    last = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        try:
            entry = json.loads(line)
            if entry["solution"] == solution:
                last[entry["fingerprint"]] = entry
        except (json.JSONDecodeError, KeyError, TypeError):
            raise UserError(f"{path} line {number} is damaged: remove it") from None
    return sorted(last.values(), key=_sort_key, reverse=True)


def format_table(entries: Sequence[Mapping[str, Any]], current: str) -> str:
    """The ranking as text; an arrow marks the submission with fingerprint `current`."""
    names = ("private", "public", "total")
    lines = [f"  rank  {'  '.join(f'{name:>8}' for name in names)}  date        submission"]
    for rank, entry in enumerate(entries, 1):
        mark = "->" if entry["fingerprint"] == current else ""
        scores = "  ".join(f"{_format_score(entry[name]):>8}" for name in names)
        lines.append(f"{mark:2}{rank:4}  {scores}  {entry['date'][:10]}  {entry['name']}")
    return "\n".join(lines)


def _sort_key(entry: Mapping[str, Any]) -> list[float]:
    return [-1.0 if entry[name] is None else entry[name] for name in RANKED_BY]


def _format_score(score: float | None) -> str:
    return "none" if score is None else f"{score:.6f}"
