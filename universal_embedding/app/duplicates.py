"""Groups of equal and nearly equal images of an index; nothing is deleted.

Two images are near-duplicates if their embeddings are as similar as those of an image and an
edited copy of it (resized, recompressed, cropped, brightened), and if small gray versions of both
correlate as these do: a model trained to ignore the view of an object would take two photos of it
for one. Both thresholds are calibrated on edited copies of the index's own images.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from universal_embedding.app.image_index import ImageIndex
from universal_embedding.datasets.image_files import read_image
from universal_embedding.errors import UserError
from universal_embedding.search.exact import exact_search
from universal_embedding.search.neighbors import NearestNeighbors

NUM_CALIBRATION_IMAGES = 200
RECALL = 0.95  # share of edited copies that the thresholds find
_SIDE = 24  # pixels of the gray versions
_FIRST_NEIGHBORS, _MAX_NEIGHBORS = 8, 512
_QUERIES = 8192


def _resized(image: Image.Image) -> Image.Image:
    return image.resize([max(8, side // 2) for side in image.size], Image.Resampling.BICUBIC)


def _recompressed(image: Image.Image) -> Image.Image:
    data = io.BytesIO()
    image.save(data, "JPEG", quality=40)
    return Image.open(data)


def _cropped(image: Image.Image) -> Image.Image:
    width, height = image.size
    return image.crop((width // 20, height // 20, width - width // 20, height - height // 20))


def _brightened(image: Image.Image) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(1.15)


EDITS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "resized to half": _resized,
    "JPEG of quality 40": _recompressed,
    "5 % cropped from each side": _cropped,
    "brightness 1.15": _brightened,
}


@dataclass(frozen=True)
class Thresholds:
    """The least similarities of near-duplicates.

    Attributes:
        embedding: Least cosine similarity of the embeddings.
        pixels: Least correlation of the gray versions; None: they are not compared.
        recall: By edit, the share of edited copies that both thresholds find; empty if the
            thresholds were given.
        other_images: Share of the calibration images whose nearest other image is above
            `embedding`: what the comparison of the gray versions has to sort out.
    """

    embedding: float
    pixels: float | None
    recall: dict[str, float]
    other_images: float | None = None


@dataclass(frozen=True)
class DuplicateGroup:
    """Images that are duplicates of one another, directly or through others of the group.

    Attributes:
        images: Their positions in the index, ascending.
        similarity: The lowest similarity of the pairs that hold the group together.
        is_equal: Whether all have the same embedding, as equal files do.
    """

    images: list[int]
    similarity: float
    is_equal: bool


def find_duplicates(
    index: ImageIndex, threshold: float | None = None, compare_pixels: bool = True
) -> tuple[Thresholds, list[DuplicateGroup]]:
    """Finds the groups of near-duplicates, largest first.

    Args:
        index: The index; its images are read for calibration and comparison.
        threshold: Least cosine similarity; None calibrates it.
        compare_pixels: Whether candidates must also look alike in small gray versions.

    Raises:
        UserError: `threshold` is no cosine similarity.
    """
    if threshold is not None and not -1 <= threshold <= 1:
        raise UserError(f"threshold is {threshold}; a cosine similarity is between -1 and 1")
    search = exact_search()
    search.index(index.embeddings)
    if threshold is not None and not compare_pixels:
        thresholds = Thresholds(threshold, None, {})
    else:
        thresholds = calibrate(index, search)
        if threshold is not None:
            thresholds = Thresholds(threshold, thresholds.pixels, {})
        if not compare_pixels:
            thresholds = Thresholds(thresholds.embedding, None, {}, thresholds.other_images)
    pairs, similarities = similar_pairs(index.embeddings, thresholds.embedding, search)
    if thresholds.pixels is not None:
        alike = _look_alike(index, pairs, thresholds.pixels)
        pairs, similarities = pairs[alike], similarities[alike]
    return thresholds, group_pairs(pairs, similarities, len(index))


def calibrate(
    index: ImageIndex, search: NearestNeighbors, num_images: int = NUM_CALIBRATION_IMAGES
) -> Thresholds:
    """Chooses the thresholds at which `RECALL` of the edited copies of its images are found."""
    sample = np.random.default_rng(0).permutation(len(index))[:num_images]
    embeddings, correlations = [], []
    readable = []
    for position in sample.tolist():
        pixels = _read(index, position)
        if pixels is None:
            continue
        image = Image.fromarray(pixels)
        copies = [np.asarray(edit(image).convert("RGB")) for edit in EDITS.values()]
        embeddings.append(index.model.encode(copies, batch_size=1, show_progress_bar=False))
        original = _gray_version(pixels)
        correlations.append([float(original @ _gray_version(copy)) for copy in copies])
        readable.append(position)
    if not readable:
        raise UserError(
            f"none of {len(sample)} images of {index.files.images_dir} can be read: give "
            "--threshold, and --no-compare_pixels"
        )
    rows = index.embeddings[readable]
    similarities = np.einsum("nd,ned->ne", rows, np.stack(embeddings))
    pixel_scores = np.array(correlations)
    # Each threshold alone misses half of what both together may miss.
    share = (1 - RECALL) / 2
    embedding, pixels_ = (float(np.quantile(x, share)) for x in (similarities, pixel_scores))
    found = (similarities >= embedding) & (pixel_scores >= pixels_)
    _, nearest = search.query(rows, 1, np.array(readable))
    return Thresholds(
        embedding,
        pixels_,
        dict(zip(EDITS, found.mean(0).tolist(), strict=True)),
        float((nearest[:, 0] >= embedding).mean()),
    )


def similar_pairs(
    embeddings: np.ndarray, threshold: float, search: NearestNeighbors
) -> tuple[np.ndarray, np.ndarray]:
    """Finds all pairs of rows that are at least so similar.

    Rows with more than `_MAX_NEIGHBORS` neighbors above the threshold are joined with the nearest
    of them, through which their group holds together.

    Args:
        embeddings: `[N, D]` float32 unit rows.
        threshold: Least dot product.
        search: A search over them.

    Returns:
        `[P, 2]` int64 pairs i < j, each once, and their `[P]` float32 similarities.
    """
    pairs, similarities = [], []
    for queries, neighbors, scores in _neighbors_above(embeddings, threshold, search):
        rows, columns = np.nonzero((scores >= threshold) & (neighbors >= 0))
        first, second = queries[rows], neighbors[rows, columns]
        pairs.append(np.stack([np.minimum(first, second), np.maximum(first, second)], 1))
        similarities.append(scores[rows, columns])
    if not pairs:
        return np.empty((0, 2), np.int64), np.empty(0, np.float32)
    all_pairs, positions = np.unique(np.concatenate(pairs), axis=0, return_index=True)
    return all_pairs, np.concatenate(similarities)[positions]


def _neighbors_above(
    embeddings: np.ndarray, threshold: float, search: NearestNeighbors
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Ids and scores of neighbors of all rows, more where the last one is still above."""
    for start in range(0, len(embeddings), _QUERIES):
        queries = np.arange(start, min(start + _QUERIES, len(embeddings)))
        count = min(_FIRST_NEIGHBORS, len(embeddings))
        while len(queries):
            neighbors, scores = search.query(embeddings[queries], count, queries)
            is_full = (scores[:, -1] >= threshold) & (count < min(_MAX_NEIGHBORS, len(embeddings)))
            yield queries[~is_full], neighbors[~is_full], scores[~is_full]
            queries, count = queries[is_full], min(count * 8, len(embeddings))


def group_pairs(
    pairs: np.ndarray, similarities: np.ndarray, num_images: int
) -> list[DuplicateGroup]:
    """Joins `[P, 2]` pairs into groups, largest first, then by position."""
    ones = np.ones(len(pairs), bool)
    graph = coo_matrix((ones, (pairs[:, 0], pairs[:, 1])), (num_images, num_images))
    _, labels = connected_components(graph, directed=False)
    members: dict[int, list[int]] = {}
    for position in np.unique(pairs).tolist():
        members.setdefault(int(labels[position]), []).append(position)
    lowest: dict[int, float] = {}
    for (first, _), similarity in zip(pairs.tolist(), similarities.tolist(), strict=True):
        label = int(labels[first])
        lowest[label] = min(similarity, lowest.get(label, similarity))
    groups = [
        DuplicateGroup(images, lowest[label], lowest[label] > 1 - 1e-6)
        for label, images in members.items()
    ]
    return sorted(groups, key=lambda group: (-len(group.images), group.images))


def _look_alike(index: ImageIndex, pairs: np.ndarray, threshold: float) -> np.ndarray:
    """`[P]` bool: whether the gray versions of both images correlate so much."""
    positions = np.unique(pairs)

    def read(position: int) -> np.ndarray | None:
        pixels = _read(index, position)
        return None if pixels is None else _gray_version(pixels)

    with ThreadPoolExecutor() as pool:
        versions = dict(zip(positions.tolist(), pool.map(read, positions.tolist()), strict=True))
    alike = np.zeros(len(pairs), bool)
    for i, (first, second) in enumerate(pairs.tolist()):
        a, b = versions[first], versions[second]
        alike[i] = a is not None and b is not None and float(a @ b) >= threshold
    return alike


def _gray_version(pixels: np.ndarray) -> np.ndarray:
    """A small gray version without its mean, `[576]` float32 of length 1."""
    image = Image.fromarray(pixels).convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    values = np.asarray(image, np.float32).ravel()
    values = values - values.mean()
    norm = np.linalg.norm(values)
    # A single color correlates with itself alone, whatever its brightness.
    return values / norm if norm > 1e-3 else np.full(values.shape, values.size**-0.5, np.float32)


def _read(index: ImageIndex, position: int) -> np.ndarray | None:
    """`[H, W, 3]` uint8; None if the file is gone or cannot be read."""
    path = index.image_path(position)
    try:
        return None if path is None else read_image(path)
    except (UserError, OSError):
        return None


def make_report(
    index: ImageIndex, thresholds: Thresholds, groups: Sequence[DuplicateGroup]
) -> dict[str, Any]:
    """The groups with the names of their images, and how they were found, for JSON."""
    return {
        "images_dir": str(index.files.images_dir),
        "num_images": len(index),
        "thresholds": {
            "embedding": thresholds.embedding,
            "pixels": thresholds.pixels,
            "recall_of_edited_copies": thresholds.recall,
            "other_images_above_embedding": thresholds.other_images,
        },
        "num_duplicates": sum(len(group.images) - 1 for group in groups),
        "groups": [
            {
                "names": [index.names[i] for i in group.images],
                "similarity": group.similarity,
                "equal": group.is_equal,
            }
            for group in groups
        ],
    }


def image_paths(index: ImageIndex, group: DuplicateGroup) -> list[Path | None]:
    """The files of a group's images; None where there is none."""
    return [index.image_path(i) for i in group.images]
