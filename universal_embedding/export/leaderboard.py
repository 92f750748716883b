"""A team's own leaderboard: one JSON line for each scored submission."""

import json
from pathlib import Path

from universal_embedding.errors import UserError

ORDER = ("private", "total")  # Kaggle ranks by the private score


def add(path: str | Path, entry: dict) -> None:
    """Appends `entry`: `date`, `name`, `fingerprint`, `solution`, `config`, scores and the like."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def standing(path: str | Path, solution: str) -> list[dict]:
    """The last entry of each submission scored against `solution`, best first.

    Args:
        path: The leaderboard.
        solution: The fingerprint of a solution; scores against others cannot be compared.

    Raises:
        UserError: A line is not what `add` writes.
    """
    last = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        try:
            entry = json.loads(line)
            if entry["solution"] == solution:
                last[entry["fingerprint"]] = entry
        except (json.JSONDecodeError, KeyError, TypeError):
            raise UserError(f"{path} line {number} is damaged: remove it") from None
    return sorted(last.values(), key=_key, reverse=True)


def _key(entry: dict) -> list[float]:
    return [-1.0 if entry[name] is None else entry[name] for name in ORDER]


def table(entries: list[dict], current: str) -> str:
    """The standing as text; the submission with fingerprint `current` is marked."""
    names = ("private", "public", "total")
    lines = [f"  rank  {'  '.join(f'{name:>8}' for name in names)}  date        submission"]
    for rank, entry in enumerate(entries, 1):
        mark = "->" if entry["fingerprint"] == current else ""
        scores = "  ".join(f"{_shown(entry[name]):>8}" for name in names)
        lines.append(f"{mark:2}{rank:4}  {scores}  {entry['date'][:10]}  {entry['name']}")
    return "\n".join(lines)


def _shown(score: float | None) -> str:
    return "none" if score is None else f"{score:.6f}"
