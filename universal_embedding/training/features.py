"""What a frozen model makes of every training picture, computed once and kept on disk."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from universal_embedding.datasets.records import Records
from universal_embedding.input.batching import naming_pictures
from universal_embedding.input.pipeline import evaluation_batches
from universal_embedding.models.embedder import Embedder
from universal_embedding.training.embed import on_replicas


def cached_features(
    folder: Path,
    records: Mapping[str, Records],
    embedder: Embedder,
    strategy: tf.distribute.Strategy,
    batch_size: int,
    show: bool = True,
) -> dict[str, np.ndarray]:
    """The backbone's features, `[N, F]` float32 by domain; see `cached_rows`."""
    model = Features(embedder)
    return cached_rows(folder, records, model, strategy, batch_size, "features", show)


class Features:
    """An embedder without its projection."""

    def __init__(self, embedder: Embedder) -> None:
        self.image_size, self.aspect = embedder.image_size, embedder.aspect
        self.output_dimension = embedder.backbone.output_shape[-1]
        self._backbone = embedder.backbone

    def __call__(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """`[b, S, S, 3]` in 0..255 -> `[b, F]`."""
        return self._backbone(images, training=training)


def cached_rows(
    folder: Path,
    records: Mapping[str, Records],
    model: Embedder | Features | None,
    strategy: tf.distribute.Strategy,
    batch_size: int,
    name: str,
    show: bool = True,
) -> dict[str, np.ndarray]:
    """Reads `folder/<domain>.npy`, after computing those that are missing.

    Pictures are taken whole, as in evaluation. A file appears under its name only when complete.

    Args:
        folder: Of the files; made if missing.
        records: Pictures by domain.
        model: What gives a row for each picture; not needed if no file is missing.
        strategy: Where to compute.
        batch_size: Pictures at once.
        name: Of the progress bar.
        show: Whether to show it.

    Returns:
        `[N, D]` float32 by domain, memory-mapped.
    """
    folder.mkdir(parents=True, exist_ok=True)
    embed = on_replicas(model, strategy)
    missing = {d: r for d, r in records.items() if not (folder / f"{d}.npy").exists()}
    total = sum(len(r) for r in missing.values())
    with tqdm(total=total, unit="picture", desc=name, disable=not show or not total) as bar:
        for domain, of in missing.items():
            size = (len(of), model.output_dimension)
            partial = folder / f"{domain}.{os.getpid()}.partial"
            features = np.lib.format.open_memmap(partial, "w+", np.float32, size)
            batches = evaluation_batches(of, batch_size, model.image_size, model.aspect)
            with naming_pictures():
                for batch in batches.as_numpy_iterator():
                    mask = batch["mask"]
                    features[batch["number"][mask]] = embed(batch["image"])[mask]
                    bar.update(int(mask.sum()))
            features.flush()
            partial.replace(folder / f"{domain}.npy")
    return {domain: np.load(folder / f"{domain}.npy", mmap_mode="r") for domain in records}
