"""How well a gallery finds its own categories: every picture searches among the others."""

from dataclasses import dataclass

import numpy as np

from universal_embedding.errors import UserError
from universal_embedding.gallery.search import Gallery, Match


@dataclass(frozen=True)
class Found:
    """The neighbours of one picture.

    Attributes:
        number: The picture.
        category: Its category.
        wanted: min(k, pictures of its category beside itself); only so many neighbours count.
        matches: Its k nearest.
    """

    number: int
    category: str
    wanted: int
    matches: list[Match]

    @property
    def right(self) -> list[bool]:
        """Whether each of the counted neighbours has the query's category."""
        return [m.category == self.category for m in self.matches[: self.wanted]]


def leave_one_out(gallery: Gallery, k: int = 5) -> list[Found]:
    """Searches every picture of the gallery among the others."""
    names, sizes = np.unique(gallery.categories, return_counts=True)
    size = dict(zip(names.tolist(), sizes.tolist(), strict=True))
    return [
        Found(i, c, min(k, size[c] - 1), gallery.nearest(i, k))
        for i, c in enumerate(gallery.categories.tolist())
    ]


def evaluate(found: list[Found], precision: float) -> dict:
    """The report.

    Args:
        found: What `leave_one_out` gives.
        precision: Share of right matches wished for, 0..1.

    Returns:
        precision_at_5: mean over pictures of (right among the first min(k, n)) / min(k, n), n the
            other pictures of its category; alone, pictures without any, count nowhere.
        categories: the same, and pictures and R@1, by category.
        taken_for: for each pair of categories (a, b) with any, the share of a's pictures whose
            nearest other picture is of b, and their number; most frequent first.
        threshold: see `threshold`.

    Raises:
        UserError: No category has two pictures.
    """
    counted = [f for f in found if f.wanted]
    if not counted:
        raise UserError(
            "no category of the gallery has two pictures, so there is nothing to find: put the "
            "pictures of each category into a sub-folder of its own"
        )
    scores = np.array([np.mean(f.right) for f in counted])
    first = np.array([f.right[0] for f in counted])
    of = np.array([f.category for f in counted])
    categories = {
        str(c): {
            "pictures": int((of == c).sum()),
            "precision_at_5": float(scores[of == c].mean()),
            "r_at_1": float(first[of == c].mean()),
        }
        for c in np.unique(of)
    }
    pairs: dict[tuple[str, str], int] = {}
    for f in counted:
        if not f.right[0]:
            pair = f.category, f.matches[0].category
            pairs[pair] = pairs.get(pair, 0) + 1
    return {
        "pictures": len(counted),
        "alone": len(found) - len(counted),
        "precision_at_5": float(scores.mean()),
        "r_at_1": float(first.mean()),
        "categories": categories,
        "taken_for": [
            {"of": a, "for": b, "pictures": n, "share": n / categories[a]["pictures"]}
            for (a, b), n in sorted(pairs.items(), key=lambda item: (-item[1], item[0]))
        ],
        "threshold": threshold(counted, precision),
    }


def threshold(found: list[Found], precision: float) -> dict:
    """The largest Euclidean distance up to which matches are as precise as wished.

    Measured on the gallery itself: pictures from elsewhere may be harder.

    Returns:
        wished: `precision`; max_distance: the distance, or None if no distance is precise enough;
        precision: that of the matches within it; matches: the share of all matches within it;
        answered: the share of pictures with any match within it.
    """
    nothing = {"wished": precision, "max_distance": None, "precision": None}
    distances = np.array([m.distance for f in found for m in f.matches[: f.wanted]])
    right = np.array([r for f in found for r in f.right])
    order = np.argsort(distances, kind="stable")
    distances, right = distances[order], right[order]
    precisions = np.cumsum(right) / np.arange(1, len(right) + 1)
    last = np.append(distances[1:] > distances[:-1], True)  # of several at the same distance
    good = np.flatnonzero((precisions >= precision) & last)
    if not len(good):
        return nothing | {"matches": 0.0, "answered": 0.0}
    cut = good[-1]
    # between two distances, so that a printed figure with fewer digits still separates them
    following = distances[min(cut + 1, len(distances) - 1)]
    limit = float((distances[cut] + following) / 2)
    return {
        "wished": precision,
        "max_distance": limit,
        "precision": float(precisions[cut]),
        "matches": float((cut + 1) / len(distances)),
        "answered": float(np.mean([f.matches[0].distance <= limit for f in found])),
    }


def failures(found: list[Found], most: int = 20) -> list[Found]:
    """The pictures with the fewest right neighbours, among them those most sure of it first."""
    wrong = [f for f in found if f.wanted and not all(f.right)]
    return sorted(wrong, key=lambda f: (np.mean(f.right), f.matches[0].distance))[:most]


def text(report: dict, pairs: int = 20) -> str:
    """The report as a table to read."""
    width = max(8, *(len(c) for c in report["categories"]))
    lines = [f"{'category':{width}}  pictures    P@5    R@1"]
    for name, row in report["categories"].items():
        scores = f"{row['precision_at_5']:.3f}  {row['r_at_1']:.3f}"
        lines.append(f"{name or '(none)':{width}}  {row['pictures']:8}  {scores}")
    total = f"{report['precision_at_5']:.3f}  {report['r_at_1']:.3f}"
    lines.append(f"{'all':{width}}  {report['pictures']:8}  {total}")
    if report["alone"]:
        lines.append(f"{report['alone']} pictures are alone in their category and not counted")
    taken = report["taken_for"]
    lines.append("")
    lines.append("taken for another (nearest picture)" if taken else "none is taken for another")
    for row in taken[:pairs]:
        share = f"{row['share']:.1%} ({row['pictures']})"
        lines.append(f"  {row['of'] or '(none)'} for {row['for'] or '(none)'}: {share}")
    if len(taken) > pairs:
        lines.append(f"  ... and {len(taken) - pairs} rarer pairs")
    return "\n".join([*lines, "", _threshold_text(report["threshold"])])


def _threshold_text(row: dict) -> str:
    if row["max_distance"] is None:
        return f"no distance gives precision {row['wished']:.2f}"
    return (
        f"precision {row['wished']:.2f} needs --max_distance={row['max_distance']:.4f}: it keeps "
        f"{row['matches']:.1%} of the matches, {row['precision']:.3f} of them right; "
        f"{row['answered']:.1%} of the pictures get an answer"
    )
