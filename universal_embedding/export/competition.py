"""The rules of the Google Universal Image Embedding Challenge: its files and its metric."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from universal_embedding.errors import UserError

K = 5
MAX_DIMENSION = 64
PICTURES = 205_000  # 5,000 queries and 200,000 index pictures
HOURS = 9
USAGES = ("Public", "Private")
Images = dict[str, tuple[str, ...]]  # by query id, the ids of index pictures


@dataclass(frozen=True)
class Solution:
    """What is right: the relevant index pictures of each query, and the half it counts in."""

    images: Images
    usage: dict[str, str]


def read_solution(path: str | Path) -> Solution:
    """Reads a csv of `id,images,Usage`.

    Raises:
        UserError: It is missing or malformed, or a query stands twice or has no relevant picture.
    """
    images, usage = {}, {}
    for row in _rows(path, ("id", "images", "Usage")):
        query, ids = row["id"], tuple(row["images"].split())
        if query in images:
            raise UserError(f"{path} has query {query} twice: leave one row")
        if not ids:
            raise UserError(f"{path}: query {query} has no relevant pictures: leave it out")
        if row["Usage"] not in USAGES:
            raise UserError(f"{path}: query {query} has Usage {row['Usage']!r}, not {USAGES}")
        images[query], usage[query] = ids, row["Usage"]
    if not images:
        raise UserError(f"{path} has no queries")
    return Solution(images, usage)


def write_solution(path: str | Path, solution: Solution) -> None:
    """Writes a csv of `id,images,Usage`."""
    rows = ([q, " ".join(ids), solution.usage[q]] for q, ids in solution.images.items())
    _write(path, ("id", "images", "Usage"), rows)


def read_predictions(path: str | Path) -> Images:
    """Reads a csv of `id,images`, images best first.

    Raises:
        UserError: It is missing or malformed, or a query stands twice.
    """
    images = {}
    for row in _rows(path, ("id", "images")):
        if row["id"] in images:
            raise UserError(f"{path} has query {row['id']} twice: leave one row")
        images[row["id"]] = tuple(row["images"].split())
    return images


def write_predictions(path: str | Path, predictions: Images) -> None:
    """Writes a csv of `id,images`."""
    _write(path, ("id", "images"), ([q, " ".join(ids)] for q, ids in predictions.items()))


def mean_precision(predictions: Mapping[str, Sequence[str]], solution: Images) -> float:
    """mP@5: `1/Q sum_q 1/min(n_q, 5) sum_{j <= min(n_q, 5)} rel_q(j)`.

    Q counts the queries of `solution`; one without predictions scores 0, and a picture predicted
    again uses its rank for nothing.

    Raises:
        UserError: A predicted query is not in the solution, or has an empty one there.
    """
    total = 0.0
    for query, predicted in predictions.items():
        if query not in solution:
            raise UserError(f"query {query} is predicted but not in the solution: leave it out")
        relevant = set(solution[query])
        if not relevant:
            raise UserError(f"query {query} has no relevant pictures in the solution")
        ranks = min(len(relevant), K)
        total += len(relevant.intersection(predicted[:ranks])) / ranks
    return total / len(solution)


def score(predictions: Images, solution: Solution) -> dict[str, float | None]:
    """`public`, `private` and `total` mP@5; None where no query counts.

    Raises:
        UserError: As `mean_precision`.
    """
    scores = {"total": mean_precision(predictions, solution.images)}
    for usage in USAGES:
        chosen = {q: ids for q, ids in solution.images.items() if solution.usage[q] == usage}
        counted = {q: ids for q, ids in predictions.items() if q in chosen}
        scores[usage.lower()] = mean_precision(counted, chosen) if chosen else None
    return scores


def _rows(path: str | Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
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
        raise UserError(f"{path} does not exist: give a csv with columns {columns}") from None
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise UserError(f"{path} is not a csv that can be read ({error})") from None


def _write(path: str | Path, columns: Sequence[str], rows: Iterator[list[str]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
