"""The frozen backbone's features of every training picture, computed once and kept on disk."""

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
    """Reads `folder/<domain>.npy`, after computing those that are missing.

    Pictures are taken whole, as in evaluation. A file appears under its name only when complete.

    Returns:
        `[N, F]` float32 by domain, memory-mapped.
    """
    folder.mkdir(parents=True, exist_ok=True)
    embed = on_replicas(embedder.backbone, strategy)
    missing = {d: r for d, r in records.items() if not (folder / f"{d}.npy").exists()}
    total = sum(len(r) for r in missing.values())
    with tqdm(total=total, unit="picture", desc="features", disable=not show or not total) as bar:
        for domain, of in missing.items():
            size = (len(of), embedder.backbone.output_shape[-1])
            partial = folder / f"{domain}.{os.getpid()}.partial"
            features = np.lib.format.open_memmap(partial, "w+", np.float32, size)
            batches = evaluation_batches(of, batch_size, embedder.image_size, embedder.aspect)
            with naming_pictures():
                for batch in batches.as_numpy_iterator():
                    mask = batch["mask"]
                    features[batch["number"][mask]] = embed(batch["image"])[mask]
                    bar.update(int(mask.sum()))
            features.flush()
            partial.replace(folder / f"{domain}.npy")
    return {domain: np.load(folder / f"{domain}.npy", mmap_mode="r") for domain in records}
