"""Kaggle's scorer on your machine: from a submission to its place on the leaderboard."""

import contextlib
import datetime
import hashlib
import json
import math
import resource
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging
from tqdm import tqdm

from universal_embedding.datasets.image_limits import CorruptImageError
from universal_embedding.datasets.image_listing import IMAGE_SUFFIXES, list_image_files
from universal_embedding.datasets.image_prefetch import decode_ahead
from universal_embedding.errors import UserError
from universal_embedding.export import saved_model, zip_archive
from universal_embedding.export.model_card import card_paths
from universal_embedding.export.zip_archive import MAX_EMBEDDING_DIM
from universal_embedding.kaggle import competition, leaderboard
from universal_embedding.kaggle.competition import K, Rankings, Solution
from universal_embedding.search.exact import exact_search

MAX_WAITING_IMAGES = 256  # decoded, until there is a batch of their size
MAX_WAITING_BYTES = 256 << 20


@dataclass(frozen=True)
class ScoringResult:
    """Predictions and their source.

    Attributes:
        name: File name of the submission.
        fingerprint: sha256 of its content.
        predictions: Ids of the nearest index images by query id.
        metadata: Further fields of the leaderboard entry: config, speed, memory.
    """

    name: str
    fingerprint: str
    predictions: Rankings
    metadata: dict[str, Any]


def score_submission(
    path: str | Path,
    query_dir: str | Path,
    index_dir: str | Path,
    solution: Solution,
    batch_size: int = 1,
) -> ScoringResult:
    """Embeds all images with a submission, as Kaggle's scorer does, and searches.

    Args:
        path: The submission zip.
        query_dir: Folder of query images, named by their id.
        index_dir: Folder of index images, named by their id.
        solution: The ground truth.
        batch_size: Images of one size embedded together; Kaggle uses 1.

    Raises:
        UserError: The submission is unsafe or breaks the scorer's rules, or an image is corrupt or
            unknown.
    """
    path = Path(path)
    queries, index = find_images(query_dir), find_images(index_dir)
    _compare_with_solution(queries, index, solution, query_dir, index_dir)
    with tempfile.TemporaryDirectory() as directory:
        zip_archive.extract_zip(path, directory)
        fingerprint = zip_archive.fingerprint(directory)
        model = saved_model.load_saved_model(Path(directory), path)
    signature = saved_model.serving_signature(model, path)
    start = time.perf_counter()
    query_rows = embed_images(signature, list(queries.values()), batch_size, "queries")
    index_rows = embed_images(signature, list(index.values()), batch_size, "index")
    images_per_second = (len(queries) + len(index)) / (time.perf_counter() - start)
    metadata = {
        "config": _read_config(path, fingerprint),
        "images_per_second": images_per_second,
        "peak_memory_bytes": _peak_memory_bytes(),
    }
    if query_rows.shape[1] != index_rows.shape[1]:
        raise UserError(
            f"embeddings of queries have {query_rows.shape[1]} dimensions and those of the index "
            f"{index_rows.shape[1]}: the size must be constant"
        )
    index_ids = list(index)
    neighbors = search_index(query_rows, index_rows)
    predictions = {
        query: tuple(index_ids[i] for i in row if i >= 0)
        for query, row in zip(queries, neighbors, strict=True)
    }
    return ScoringResult(path.name, fingerprint, predictions, metadata)


def load_predictions(path: str | Path) -> ScoringResult:
    """Reads predictions from a CSV file.

    Raises:
        UserError: It is missing or malformed.
    """
    predictions = competition.read_predictions(path)
    fingerprint = hashlib.sha256(repr(sorted(predictions.items())).encode()).hexdigest()
    return ScoringResult(Path(path).name, fingerprint, predictions, {"config": None})


def record_result(
    result: ScoringResult,
    solution: Solution,
    solution_path: str | Path,
    leaderboard_path: str | Path,
) -> Iterator[str]:
    """Scores predictions and appends them to the leaderboard.

    Yields:
        Score and speed as text, before the leaderboard is touched, and then the ranking.

    Raises:
        UserError: A predicted query is not in the solution.
    """
    scores = competition.score_predictions(result.predictions, solution)
    solution_fingerprint = hashlib.sha256(Path(solution_path).read_bytes()).hexdigest()
    entry = {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "name": result.name,
        "fingerprint": result.fingerprint,
        "solution": solution_fingerprint,
        **scores,
        **result.metadata,
    }
    lines = []
    for name in ("public", "private", "total"):
        score = scores[name]
        text = "none: no query counts there" if score is None else f"{score:.6f} mP@5"
        lines.append(f"{name:8}{text}")
    if "images_per_second" in entry:
        lines += describe_speed(entry["images_per_second"], entry["peak_memory_bytes"])
    yield "\n".join(lines)
    leaderboard.append(leaderboard_path, entry)
    ranking = leaderboard.ranking(leaderboard_path, solution_fingerprint)
    table = leaderboard.format_table(ranking, result.fingerprint)
    yield f"\nranking in {leaderboard_path}\n{table}"


def find_images(folder: str | Path) -> dict[str, Path]:
    """The images below `folder` by id, which is the file's name without suffix; sorted.

    Raises:
        UserError: There are none, or two map to the same id.
    """
    images: dict[str, Path] = {}
    listing = list_image_files(Path(folder))
    for name, reason in listing.unusable.items():
        raise UserError(f"{folder}/{name} cannot be scored: {reason}")
    for path in (Path(folder, name) for name in listing.names):
        if path.stem in images:
            raise UserError(f"{path} and {images[path.stem]} map to the same id; rename one")
        if len(path.stem.split()) != 1:
            raise UserError(f"{path} has white space in its id, which separates ids; rename it")
        images[path.stem] = path
    if not images:
        raise UserError(f"{folder} has no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return images


def embed_images(
    signature: saved_model.Signature,
    paths: Sequence[Path],
    batch_size: int = 1,
    description: str = "",
) -> np.ndarray:
    """Embeds images at their native size.

    Args:
        signature: `serving_default` of a submission.
        paths: N image files.
        batch_size: Images of one size embedded together; Kaggle uses 1.
        description: Label of the progress bar.

    Returns:
        `[N, D]` float32.

    Raises:
        UserError: An image cannot be decoded, or its embedding is not finite, differs in size from
            the first one, or has more than 64 dimensions.
    """
    rows = np.empty((len(paths), 0), np.float32)
    waiting: dict[tuple[int, ...], list[tuple[int, np.ndarray]]] = defaultdict(list)
    num_waiting = 0
    with tqdm(total=len(paths), desc=description, unit="image", disable=None) as bar:

        def embed_waiting(shape: tuple[int, ...]) -> None:
            nonlocal rows, num_waiting
            indices, images = zip(*waiting.pop(shape), strict=True)
            batch_paths = [paths[i] for i in indices]
            try:
                outputs = signature(tf.constant(np.stack(images)))[saved_model.UNIT_OUTPUT].numpy()
            except tf.errors.OpError as error:
                reason = error.message.splitlines()[0]
                raise UserError(f"model failed on {batch_paths[0]}: {reason}") from error
            _check_embeddings(outputs, batch_paths, rows.shape[1])
            if not rows.shape[1]:
                rows = np.empty((len(paths), outputs.shape[1]), np.float32)
            rows[list(indices)] = outputs
            num_waiting -= len(images)
            bar.update(len(images))

        with contextlib.closing(_decode(paths)) as decoded:
            for i, image in enumerate(decoded):
                waiting[image.shape].append((i, image))
                num_waiting += 1
                num_bytes = sum(len(group) * math.prod(shape) for shape, group in waiting.items())
                if len(waiting[image.shape]) == batch_size:
                    embed_waiting(image.shape)
                elif num_waiting == MAX_WAITING_IMAGES or num_bytes > MAX_WAITING_BYTES:
                    embed_waiting(max(waiting, key=lambda shape: len(waiting[shape])))
        for shape in list(waiting):
            embed_waiting(shape)
    return rows


def search_index(queries: np.ndarray, index: np.ndarray, k: int = K) -> np.ndarray:
    """Finds the nearest index rows by Euclidean distance; rows need not have unit length.

    |q - x|^2 = |q|^2 - 2 (q x - |x|^2 / 2): the nearest has the largest dot product of (q, 1) and
    (x, -|x|^2 / 2).

    Returns:
        `[Q, k]` int64 row numbers, nearest first; -1 where the index has fewer rows.
    """
    ones = np.ones((len(queries), 1), np.float32)
    halves = -0.5 * np.square(index).sum(axis=1, keepdims=True)
    neighbors = exact_search()
    neighbors.index(np.hstack([index, halves.astype(np.float32)]))
    return neighbors.query(np.hstack([queries, ones]), k)[0]


def describe_speed(images_per_second: float, peak_memory_bytes: int) -> list[str]:
    """Lines on speed, memory and the time that the competition's images would take."""
    hours = competition.NUM_IMAGES / images_per_second / 3600
    lines = [
        f"{images_per_second:.1f} images per second, "
        f"peak memory {peak_memory_bytes / 2**30:.2f} GiB",
        f"the competition's {competition.NUM_IMAGES:,} images would take {hours:.2f} hours on this "
        "machine",
    ]
    if hours > competition.MAX_HOURS:
        lines.append(f"WARNING: a submission may take at most {competition.MAX_HOURS} hours")
    return lines


def _compare_with_solution(
    queries: Collection[str],
    index: Collection[str],
    solution: Solution,
    query_dir: str | Path,
    index_dir: str | Path,
) -> None:
    unknown = set(queries) - solution.images.keys()
    if unknown:
        raise UserError(
            f"{len(unknown)} images of {query_dir} are not queries of the solution, such as "
            f"{min(unknown)}: remove them"
        )
    num_missing = len(solution.images) - len(queries)
    if num_missing:
        logging.warning("%d queries have no image in %s and score 0", num_missing, query_dir)
    absent = {image for ids in solution.images.values() for image in ids} - set(index)
    if absent:
        logging.warning("%d relevant images are not in %s", len(absent), index_dir)


def _decode(paths: Sequence[Path]) -> Generator[np.ndarray]:
    """Decodes images to `[H, W, 3]` uint8 in order; raises a UserError for a corrupt one."""
    with contextlib.closing(decode_ahead(paths)) as images:
        for path, image in zip(paths, images, strict=True):
            if isinstance(image, CorruptImageError):
                raise UserError(f"{path} cannot be decoded ({image}): replace it")
            yield image


def _check_embeddings(outputs: np.ndarray, paths: Sequence[Path], embedding_dim: int) -> None:
    """Checks the embeddings of a batch; `embedding_dim` is that of the first batch, or 0."""
    prefix = f"the embedding of {paths[0]}"
    if outputs.ndim != 2 or len(outputs) != len(paths) or outputs.dtype != np.float32:
        raise UserError(
            f"{prefix} is {outputs.dtype} of shape {outputs.shape}, not float32 [{len(paths)}, D]"
        )
    dim = outputs.shape[1]
    if not 0 < dim <= MAX_EMBEDDING_DIM:
        raise UserError(f"{prefix} has {dim} dimensions; expected 1 to {MAX_EMBEDDING_DIM}")
    if embedding_dim and dim != embedding_dim:
        raise UserError(
            f"{prefix} has {dim} dimensions and that of the first image {embedding_dim}: the size "
            "must be constant"
        )
    is_finite = np.isfinite(outputs).all(axis=1)
    if not is_finite.all():
        path = paths[int(np.argmin(is_finite))]
        raise UserError(f"the embedding of {path} contains NaN or infinity: fix the model")


def _read_config(path: Path, fingerprint: str) -> dict[str, Any] | None:
    """The config from the card beside the zip if the card describes this very model."""
    try:
        card = json.loads(card_paths(path)[0].read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(card, dict) or card.get("fingerprint") != fingerprint:
        return None
    return card.get("config")


def _peak_memory_bytes() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
