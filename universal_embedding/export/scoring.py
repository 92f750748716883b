"""From a submission to its place on the leaderboard."""

import datetime
import hashlib
import json
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from absl import logging

from universal_embedding.errors import UserError
from universal_embedding.export import archive, leaderboard, scorer, signature
from universal_embedding.export.competition import (
    HOURS,
    PICTURES,
    Images,
    Solution,
    read_predictions,
    score,
)
from universal_embedding.export.picture_files import find


@dataclass(frozen=True)
class Scored:
    """Predictions, and where they come from.

    Attributes:
        name: The submission's file name.
        fingerprint: Of its content.
        predictions: By query id, the ids of the nearest index pictures.
        facts: What the leaderboard keeps besides: config, speed, memory.
    """

    name: str
    fingerprint: str
    predictions: Images
    facts: dict


def of_submission(
    path: str | Path,
    query_dir: str | Path,
    index_dir: str | Path,
    solution: Solution,
    batch_size: int = 1,
) -> Scored:
    """Embeds all pictures with a submission, as Kaggle's scorer does, and searches.

    Raises:
        UserError: The submission is unsafe or unlike what the scorer demands, or a picture is.
    """
    path = Path(path)
    queries, index = find(query_dir), find(index_dir)
    _compare(queries, index, solution, query_dir, index_dir)
    with tempfile.TemporaryDirectory() as directory:
        archive.unpack(path, directory)
        fingerprint = archive.fingerprint(directory)
        model = signature.read(Path(directory), path)
    serve = signature.default(model, path)
    start = time.perf_counter()
    query_rows = scorer.embed(serve, list(queries.values()), batch_size, "queries")
    index_rows = scorer.embed(serve, list(index.values()), batch_size, "index")
    rate = (len(queries) + len(index)) / (time.perf_counter() - start)
    facts = {
        "config": _config(path, fingerprint),
        "pictures_per_second": rate,
        "peak_memory_bytes": _peak_memory(),
    }
    predictions = scorer.predict(list(queries), list(index), query_rows, index_rows)
    return Scored(path.name, fingerprint, predictions, facts)


def of_predictions(path: str | Path) -> Scored:
    """Takes predictions from a file."""
    predictions = read_predictions(path)
    fingerprint = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return Scored(Path(path).name, fingerprint, predictions, {"config": None})


def enter(scored: Scored, solution: Solution, solution_path: str | Path, board: str | Path) -> str:
    """Scores, writes the leaderboard's line, and tells score, speed and standing.

    Raises:
        UserError: A predicted query is not in the solution.
    """
    scores = score(scored.predictions, solution)
    against = hashlib.sha256(Path(solution_path).read_bytes()).hexdigest()
    entry = {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "name": scored.name,
        "fingerprint": scored.fingerprint,
        "solution": against,
        **scores,
        **scored.facts,
    }
    leaderboard.add(board, entry)
    lines = [f"{name:8}{_shown(scores[name])}" for name in ("public", "private", "total")]
    if "pictures_per_second" in entry:
        lines += _speed(entry["pictures_per_second"], entry["peak_memory_bytes"])
    standing = leaderboard.table(leaderboard.standing(board, against), scored.fingerprint)
    return "\n".join([*lines, "", f"standing in {board}", standing])


def _shown(value: float | None) -> str:
    return "none: no query counts there" if value is None else f"{value:.6f} mP@5"


def _speed(rate: float, memory: int) -> list[str]:
    hours = PICTURES / rate / 3600
    lines = [
        f"{rate:.1f} pictures per second, peak memory {memory / 2**30:.2f} GiB",
        f"the competition's {PICTURES:,} pictures would take {hours:.2f} hours here",
    ]
    if hours > HOURS:
        lines.append(f"WARNING: that is more than the {HOURS} hours a submission may take")
    return lines


def _compare(
    queries: dict, index: dict, solution: Solution, query_dir: str | Path, index_dir: str | Path
) -> None:
    unknown = queries.keys() - solution.images.keys()
    if unknown:
        raise UserError(
            f"{len(unknown)} pictures of {query_dir} are no query of the solution, "
            f"{min(unknown)} for one: remove them"
        )
    missing = len(solution.images) - len(queries)
    if missing:
        logging.warning("%d queries have no picture in %s and score 0", missing, query_dir)
    absent = {image for ids in solution.images.values() for image in ids} - index.keys()
    if absent:
        logging.warning("%d relevant pictures are not in %s", len(absent), index_dir)


def _config(path: Path, fingerprint: str) -> dict | None:
    """The config from the card beside the zip, where the card is of this very model."""
    try:
        card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return card.get("config") if card.get("fingerprint") == fingerprint else None


def _peak_memory() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
