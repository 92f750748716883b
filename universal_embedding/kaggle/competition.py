"""Rules of the Google Universal Image Embedding Challenge: limits, files and metric.

The limit on dimensions, which export must know too, is `export.zip_archive.MAX_EMBEDDING_DIM`.
"""

import csv
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from universal_embedding.errors import UserError
from universal_embedding.files import atomic_write

K = 5
NUM_IMAGES = 205_000  # 5,000 queries and 200,000 index images
MAX_HOURS = 9
USAGES = ("Public", "Private")
Rankings = dict[str, tuple[str, ...]]
"""Ids of index images by query id."""


@dataclass(frozen=True)
class Solution:
    """The ground truth.

    Attributes:
        images: The relevant index images of each query.
        usage: `Public` or `Private` for each query: the leaderboard that it counts on.
    """

    images: Rankings
    usage: dict[str, str]


def read_solution(path: str | Path) -> Solution:
    """Reads a CSV file of `id,images,Usage`.

    Raises:
        UserError: It is missing or malformed, or a query occurs twice or has no relevant image.
    """
    images: Rankings = {}
    usage = {}
    for row in _read_rows(path, ("id", "images", "Usage")):
        query, ids = row["id"], tuple(row["images"].split())
        if query in images:
            raise UserError(f"{path} has query {query} twice: keep one row")
        if not ids:
            raise UserError(f"{path}: query {query} has no relevant images: remove it")
        if row["Usage"] not in USAGES:
            raise UserError(f"{path}: query {query} has Usage {row['Usage']!r}, not {USAGES}")
        images[query], usage[query] = ids, row["Usage"]
    if not images:
        raise UserError(f"{path} has no queries")
    return Solution(images, usage)


def write_solution(path: str | Path, solution: Solution) -> None:
    """Writes a CSV file of `id,images,Usage`."""
    rows = ([q, " ".join(ids), solution.usage[q]] for q, ids in solution.images.items())
    _write_rows(path, ("id", "images", "Usage"), rows)


def read_predictions(path: str | Path) -> Rankings:
    """Reads a CSV file of `id,images`, images best first.

    Raises:
        UserError: It is missing or malformed, or a query occurs twice.
    """
    images: Rankings = {}
    for row in _read_rows(path, ("id", "images")):
        if row["id"] in images:
            raise UserError(f"{path} has query {row['id']} twice: keep one row")
        images[row["id"]] = tuple(row["images"].split())
    return images


def write_predictions(path: str | Path, predictions: Rankings) -> None:
    """Writes a CSV file of `id,images`."""
    rows = ([query, " ".join(ids)] for query, ids in predictions.items())
    _write_rows(path, ("id", "images"), rows)


def mean_precision_at_5(
    predictions: Mapping[str, Sequence[str]], solution: Mapping[str, Sequence[str]]
) -> float:
    """Kaggle's mP@5, which equals mMP@5: `1/Q sum_q 1/min(n_q, 5) sum_{j <= min(n_q, 5)} rel_q(j)`.

    Q counts the queries of `solution`. One without predictions scores 0; duplicate predictions
    occupy a rank but earn no credit.

    Args:
        predictions: Ids of index images by query id, best first.
        solution: Ids of the relevant index images by query id.

    Raises:
        UserError: A predicted query is not in the solution, or has no relevant image there.
    """
    total = 0.0
    for query, predicted in predictions.items():
        if query not in solution:
            raise UserError(f"query {query} is predicted but not in the solution: remove it")
        relevant = set(solution[query])
        if not relevant:
            raise UserError(f"query {query} has no relevant images in the solution")
        num_ranks = min(len(relevant), K)
        total += len(relevant.intersection(predicted[:num_ranks])) / num_ranks
    return total / len(solution)


def score_predictions(predictions: Rankings, solution: Solution) -> dict[str, float | None]:
    """`public`, `private` and `total` mP@5; None where no query counts.

    Raises:
        UserError: As `mean_precision_at_5`.
    """
    scores: dict[str, float | None] = {"total": mean_precision_at_5(predictions, solution.images)}
    for usage in USAGES:
        relevant = {q: ids for q, ids in solution.images.items() if solution.usage[q] == usage}
        counted = {q: ids for q, ids in predictions.items() if q in relevant}
        scores[usage.lower()] = mean_precision_at_5(counted, relevant) if relevant else None
    return scores


def _read_rows(path: str | Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    csv.field_size_limit(sys.maxsize)  # a class may have any number of images
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = set(columns) - set(reader.fieldnames or ())
            if missing:
                raise UserError(f"{path} has no column {min(missing)!r}; it needs {columns}")
            for row in reader:
                if any(row[column] is None for column in columns):
                    raise UserError(f"{path} line {reader.line_num} has too few fields")
                yield row
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: give a CSV file with columns {columns}") from None
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise UserError(f"{path} cannot be read as a CSV file ({error})") from None


def _write_rows(path: str | Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    with atomic_write(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
