"""Kaggle's scorer at home: a submission, query and index pictures -> the five nearest."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from universal_embedding.errors import UserError
from universal_embedding.export.competition import MAX_DIMENSION, Images, K
from universal_embedding.export.picture_files import decoded
from universal_embedding.export.saved_model import UNIT
from universal_embedding.retrieval.exact import exact

HELD = 256  # decoded pictures that may wait for others of their size

Signature = Callable[[tf.Tensor], dict[str, tf.Tensor]]


def embed(
    serve: Signature, paths: Sequence[Path], batch_size: int = 1, name: str = ""
) -> np.ndarray:
    """Embeds pictures at their native size.

    Args:
        serve: A submission's `serving_default`.
        paths: N picture files.
        batch_size: Pictures of one size embedded together; 1 is what Kaggle does.
        name: Of the progress bar.

    Returns:
        `[N, D]` float32.

    Raises:
        UserError: A picture cannot be decoded, or its embedding is not finite, has another size
            than the first one's, or more than 64 dimensions.
    """
    rows = None
    waiting, held = defaultdict(list), 0
    with tqdm(total=len(paths), desc=name, unit="picture", disable=None) as bar:

        def flush(shape: tuple[int, ...]) -> None:
            nonlocal rows, held
            numbers, images = zip(*waiting.pop(shape), strict=True)
            given = [paths[i] for i in numbers]
            try:
                outputs = serve(tf.constant(np.stack(images)))[UNIT].numpy()
            except tf.errors.OpError as error:
                reason = error.message.splitlines()[0]
                raise UserError(f"the model fails at {given[0]} ({reason}): mend it") from error
            _check(outputs, len(images), rows, given)
            if rows is None:
                rows = np.empty((len(paths), outputs.shape[1]), np.float32)
            rows[list(numbers)] = outputs
            held -= len(images)
            bar.update(len(images))

        for number, image in enumerate(decoded(paths)):
            waiting[image.shape].append((number, image))
            held += 1
            if len(waiting[image.shape]) == batch_size:
                flush(image.shape)
            elif held == HELD:
                flush(max(waiting, key=lambda shape: len(waiting[shape])))
        for shape in list(waiting):
            flush(shape)
    return rows


def nearest(queries: np.ndarray, index: np.ndarray, k: int = K) -> np.ndarray:
    """`[Q, k]` int64: row numbers of the nearest by Euclidean distance, best first; -1 for none.

    |q - x|^2 = |q|^2 - 2 (q x - |x|^2 / 2): the nearest has the largest dot product of (q, 1) and
    (x, -|x|^2 / 2), so rows need not have length one.
    """
    ones = np.ones((len(queries), 1), np.float32)
    halves = -0.5 * np.square(index).sum(axis=1, keepdims=True)
    neighbours = exact()
    neighbours.index(np.hstack([index, halves.astype(np.float32)]))
    return neighbours.query(np.hstack([queries, ones]), k)[0]


def predict(
    query_ids: Sequence[str], index_ids: Sequence[str], queries: np.ndarray, index: np.ndarray
) -> Images:
    """The ids of each query's five nearest index pictures."""
    if queries.shape[1] != index.shape[1]:
        raise UserError(
            f"embeddings of queries have {queries.shape[1]} dimensions and of the index "
            f"{index.shape[1]}: the size must be constant"
        )
    numbers = nearest(queries, index)
    rows = zip(query_ids, numbers, strict=True)
    return {query: tuple(index_ids[i] for i in row if i >= 0) for query, row in rows}


def _check(outputs: np.ndarray, count: int, rows: np.ndarray | None, paths: list[Path]) -> None:
    given = f"the embedding of {paths[0]}"
    if outputs.ndim != 2 or len(outputs) != count or outputs.dtype != np.float32:
        raise UserError(
            f"{given} is {outputs.dtype} of shape {outputs.shape}, not float32 [{count}, D]"
        )
    if not 0 < outputs.shape[1] <= MAX_DIMENSION:
        raise UserError(f"{given} has {outputs.shape[1]} dimensions; 1 to {MAX_DIMENSION} may be")
    if rows is not None and outputs.shape[1] != rows.shape[1]:
        raise UserError(
            f"{given} has {outputs.shape[1]} dimensions and the first picture's {rows.shape[1]}: "
            "the size must be constant"
        )
    finite = np.isfinite(outputs).all(axis=1)
    if not finite.all():
        path = paths[int(np.argmin(finite))]
        raise UserError(f"the embedding of {path} holds NaN or infinity: mend the model")
