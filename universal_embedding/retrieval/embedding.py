"""From prepared pictures to arrays of embeddings."""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from universal_embedding.datasets.records import Records
from universal_embedding.input.batching import naming_pictures
from universal_embedding.input.pipeline import evaluation_batches


def embed_records(
    embed: Callable[[tf.Tensor], np.ndarray | tf.Tensor],
    records: Records,
    image_size: int,
    aspect: str = "squash",
    batch_size: int = 64,
) -> np.ndarray:
    """Embeds every picture of `records` once.

    Args:
        embed: `[B, S, S, 3]` float32 in 0..255 -> `[B, D]`, such as an `Embedder`.
        records: N pictures.
        image_size: S in pixels.
        aspect: How pictures become squares; see `input.resizing.resize`.
        batch_size: B; the last batch is filled up.

    Returns:
        `[N, D]` float32 in the order of the records.
    """
    embeddings = None
    batches = evaluation_batches(records, batch_size, image_size, aspect)
    with naming_pictures(), _bar(records) as bar:
        for batch in batches:
            rows = np.asarray(embed(batch["image"]), np.float32)
            numbers, mask = batch["number"].numpy(), batch["mask"].numpy()
            if embeddings is None:
                embeddings = np.empty((len(records), rows.shape[1]), np.float32)
            embeddings[numbers[mask]] = rows[mask]
            bar.update(int(mask.sum()))
    return embeddings


def embed_files(
    embed: Callable[[Sequence[bytes]], np.ndarray], records: Records, batch_size: int = 64
) -> np.ndarray:
    """Embeds every picture of `records` with a function of encoded pictures.

    Args:
        embed: JPEG or PNG files as bytes -> `[B, D]`, such as `universal_embedding.load` gives.
        records: N pictures.
        batch_size: B.

    Returns:
        `[N, D]` float32 in the order of the records.
    """
    rows = []
    with _bar(records) as bar:
        for start in range(0, len(records), batch_size):
            numbers = range(start, min(start + batch_size, len(records)))
            rows.append(np.asarray(embed(records.read(numbers)), np.float32))
            bar.update(len(numbers))
    return np.concatenate(rows)


def _bar(records: Records) -> tqdm:
    name = f"{records.domain} {records.split}"
    return tqdm(total=len(records), desc=name, unit="picture", disable=None, leave=False)
