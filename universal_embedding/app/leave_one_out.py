"""Leave-one-out evaluation of an index: each image retrieves its own category among the others."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from universal_embedding.app.image_index import ImageIndex
from universal_embedding.app.searchable import SearchHit, distances, nearest_first
from universal_embedding.app.vector_index import VectorIndex
from universal_embedding.datasets.examples import Labels
from universal_embedding.errors import UserError
from universal_embedding.evaluation.embeddings import DomainEmbeddings
from universal_embedding.evaluation.protocol import run_protocol


@dataclass(frozen=True)
class QueryResult:
    """The nearest neighbors of one image.

    Attributes:
        index: Position of the image in the index.
        category: Its category.
        num_counted: min(k, other images of its category); only as many neighbors count.
        hits: Its k nearest neighbors.
    """

    index: int
    category: str
    num_counted: int
    hits: list[SearchHit]

    @property
    def is_relevant(self) -> list[bool]:
        """Whether each of the counted neighbors has the query's category."""
        return [hit.category == self.category for hit in self.hits[: self.num_counted]]


def leave_one_out(
    index: ImageIndex | VectorIndex, k: int = 5, num_queries: int = 10_000
) -> list[QueryResult]:
    """Searches each image of the index among the others, by UnED's separate protocol.

    Args:
        index: The index; the rows of an index of embeddings are searched by its own search.
        k: Number of neighbors.
        num_queries: Rows of an index of embeddings that are searched, drawn at random; all images
            of one of images are.

    Raises:
        UserError: Its embeddings have no labels.
    """
    if isinstance(index, VectorIndex):
        return _leave_out_rows(index, k, num_queries)
    _, labels = np.unique(index.categories, return_inverse=True)
    images = DomainEmbeddings(index.embeddings, Labels.from_rows(labels.tolist()))
    result = run_protocol({"": images}, "separate", max_neighbors=k).domains[""]
    results = []
    for query, category in enumerate(index.categories.tolist()):
        neighbors = result.neighbors[query][result.neighbors[query] >= 0]
        hits = _sort_hits(index, neighbors, index.embeddings[neighbors], index.embeddings[query])
        results.append(QueryResult(query, category, min(k, int(result.num_positives[query])), hits))
    return results


def _leave_out_rows(index: VectorIndex, k: int, num_queries: int) -> list[QueryResult]:
    rows = np.flatnonzero(index.neighbors.contains(np.arange(len(index))))
    sizes = index.names.count_categories(rows)
    if set(sizes) <= {""}:
        raise UserError(
            f"the embeddings of {index.meta.source} have no labels: give the .parquet beside them "
            "a column `label`"
        )
    rows = np.sort(np.random.default_rng(0).permutation(rows)[:num_queries])
    queries = index.neighbors.rows(rows)
    found, _ = index.neighbors.query(queries, k, rows)
    results = []
    for row, query, neighbors in zip(rows.tolist(), queries, found, strict=True):
        neighbors = neighbors[neighbors >= 0]
        hits = _sort_hits(index, neighbors, index.neighbors.rows(neighbors), query)
        category = index.names.category(row)
        results.append(QueryResult(row, category, min(k, sizes[category] - 1), hits))
    return results


def _sort_hits(
    index: ImageIndex | VectorIndex, neighbors: np.ndarray, rows: np.ndarray, query: np.ndarray
) -> list[SearchHit]:
    return nearest_first(index, neighbors, distances(rows, query, "euclidean"), None)


def make_report(results: Sequence[QueryResult], target_precision: float) -> dict:
    """Summarizes a leave-one-out evaluation.

    Args:
        results: Outcome of `leave_one_out` with k = 5.
        target_precision: Precision at which to report the distance threshold, 0..1.

    Returns:
        mmp_at_5 and r_at_1: means over images, without `num_singletons` that are alone in their
        category.
        categories: the same, and num_images, by category.
        confusions: for each pair of categories, the images of `category` whose nearest other image
        is of `nearest_category`: their number and fraction; most frequent first.
        threshold: see `find_threshold`.

    Raises:
        UserError: No category has two images.
    """
    counted = [result for result in results if result.num_counted]
    if not counted:
        raise UserError(
            "no category of the index has two images, so nothing can be retrieved; put the images "
            "of each category into a sub-folder of its own"
        )
    scores = np.array([np.mean(result.is_relevant) for result in counted])
    first = np.array([result.is_relevant[0] for result in counted])
    categories_of = np.array([result.category for result in counted])
    categories = {
        str(category): {
            "num_images": int((categories_of == category).sum()),
            "mmp_at_5": float(scores[categories_of == category].mean()),
            "r_at_1": float(first[categories_of == category].mean()),
        }
        for category in np.unique(categories_of)
    }
    pairs = Counter(
        (result.category, result.hits[0].category)
        for result in counted
        if not result.is_relevant[0]
    )
    return {
        "num_images": len(counted),
        "num_singletons": len(results) - len(counted),
        "mmp_at_5": float(scores.mean()),
        "r_at_1": float(first.mean()),
        "categories": categories,
        "confusions": [
            {
                "category": category,
                "nearest_category": nearest,
                "num_images": count,
                "fraction": count / categories[category]["num_images"],
            }
            for (category, nearest), count in sorted(
                pairs.items(), key=lambda item: (-item[1], item[0])
            )
        ],
        "threshold": find_threshold(counted, target_precision),
    }


def find_threshold(results: Sequence[QueryResult], target_precision: float) -> dict:
    """The largest Euclidean distance within which matches reach a precision.

    Measured on the index itself: images from elsewhere may be harder.

    Returns:
        target_precision; max_distance: the distance, or None if none is precise enough; precision
        of the matches within it; matches: the fraction of all matches within it; answered: the
        fraction of images with any match within it.
    """
    report = {"target_precision": target_precision, "max_distance": None, "precision": None}
    found = np.array([hit.distance for r in results for hit in r.hits[: r.num_counted]])
    relevant = np.array([is_relevant for r in results for is_relevant in r.is_relevant])
    order = np.argsort(found, kind="stable")
    found, relevant = found[order], relevant[order]
    precisions = np.cumsum(relevant) / np.arange(1, len(relevant) + 1)
    is_last = np.append(found[1:] > found[:-1], True)  # of several at the same distance
    precise = np.flatnonzero((precisions >= target_precision) & is_last)
    if not len(precise):
        return report | {"matches": 0.0, "answered": 0.0}
    cut = precise[-1]
    # Between two distances, so that a printed figure with fewer digits still separates them.
    following = found[min(cut + 1, len(found) - 1)]
    limit = float((found[cut] + following) / 2)
    return report | {
        "max_distance": limit,
        "precision": float(precisions[cut]),
        "matches": float((cut + 1) / len(found)),
        "answered": float(np.mean([result.hits[0].distance <= limit for result in results])),
    }


def worst_failures(results: Sequence[QueryResult], max_results: int = 20) -> list[QueryResult]:
    """Images with the fewest relevant neighbors, among them the most confident first."""
    wrong = [result for result in results if result.num_counted and not all(result.is_relevant)]
    wrong.sort(key=lambda result: (np.mean(result.is_relevant), result.hits[0].distance))
    return wrong[:max_results]


def format_report(report: dict, max_pairs: int = 20) -> str:
    """The report as text."""
    width = max(8, *(len(category) for category in report["categories"]))
    lines = [f"{'category':{width}}    images   mMP@5    R@1"]
    for name, row in (*report["categories"].items(), ("all", report)):
        scores = f"{row['mmp_at_5']:.3f}  {row['r_at_1']:.3f}"
        lines.append(f"{name or '(none)':{width}}  {row['num_images']:8}   {scores}")
    if report["num_singletons"]:
        lines.append(
            f"{report['num_singletons']} images are alone in their category and not counted"
        )
    confusions = report["confusions"]
    lines += ["", "top-1 confusions" if confusions else "no top-1 confusions"]
    for row in confusions[:max_pairs]:
        fraction = f"{row['fraction']:.1%} ({row['num_images']})"
        pair = f"{row['category'] or '(none)'} -> {row['nearest_category'] or '(none)'}"
        lines.append(f"  {pair}: {fraction}")
    if len(confusions) > max_pairs:
        lines.append(f"  ... and {len(confusions) - max_pairs} rarer pairs")
    return "\n".join([*lines, "", _describe_threshold(report["threshold"])])


def _describe_threshold(row: dict) -> str:
    if row["max_distance"] is None:
        return f"no distance reaches precision {row['target_precision']:.2f}"
    return (
        f"precision {row['target_precision']:.2f} needs --max_distance={row['max_distance']:.4f}: "
        f"{row['matches']:.1%} of the matches are within it, {row['precision']:.3f} of them "
        f"right; {row['answered']:.1%} of the images get an answer"
    )
