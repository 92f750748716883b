"""Embeddings or backbone features of all training images, computed once and kept on disk."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from universal_embedding.datasets.records import Records
from universal_embedding.files import atomic_write
from universal_embedding.models.embedding_model import EmbeddingModel
from universal_embedding.models.inference import embed_records, make_embed_fn


class FeatureCache:
    """One row for each training image, in `folder/<domain>.npy`: `[N, D]` float32.

    A file appears under its name only when it is complete, so an interrupted computation resumes
    with the domains that are missing.

    Args:
        folder: Directory of the files; made if missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def missing(self, domains: Iterable[str]) -> list[str]:
        """The domains that have no file yet."""
        return [domain for domain in domains if not self._path(domain).exists()]

    def read(self, domains: Iterable[str]) -> dict[str, np.ndarray]:
        """`[N, D]` float32 by domain, memory-mapped."""
        return {domain: np.load(self._path(domain), mmap_mode="r") for domain in domains}

    def compute(
        self,
        records: Mapping[str, Records],
        embed_fn: Callable[[tf.Tensor], np.ndarray],
        dim: int,
        image_size: int,
        resize_mode: str,
        batch_size: int,
        description: str,
        show_progress: bool = True,
    ) -> None:
        """Writes the files of all `records`, from whole images as in evaluation.

        Args:
            records: Images by domain.
            embed_fn: `[b, S, S, 3]` float32 in 0..255 -> `[b, D]` float32.
            dim: D.
            image_size: S, in pixels.
            resize_mode: See `input.resizing.resize`.
            batch_size: Images per call of `embed_fn`.
            description: Label of the progress bar.
            show_progress: Whether to show the progress bar.
        """
        total = sum(map(len, records.values()))
        with tqdm(total=total, unit="image", desc=description, disable=not show_progress) as bar:
            for domain, domain_records in records.items():
                with atomic_write(self._path(domain), "wb") as file:
                    rows = np.lib.format.open_memmap(
                        file.name, "w+", np.float32, (len(domain_records), dim)
                    )
                    embed_records(
                        embed_fn,
                        domain_records,
                        image_size,
                        resize_mode,
                        batch_size,
                        out=rows,
                        progress_bar=bar,
                    )
                    rows.flush()

    def _path(self, domain: str) -> Path:
        return self.folder / f"{domain}.npy"


def cache_features(
    folder: Path,
    records: Mapping[str, Records],
    model: EmbeddingModel,
    strategy: tf.distribute.Strategy,
    batch_size: int = 64,
    show_progress: bool = True,
) -> dict[str, np.ndarray]:
    """Reads the backbone's features of all images, after computing those that are missing.

    Args:
        folder: Directory of the cache.
        records: Images by domain.
        model: Its backbone computes the features.
        strategy: Distributes the computation.
        batch_size: Images per call of the backbone.
        show_progress: Whether to show a progress bar.

    Returns:
        `[N, F]` float32 by domain, memory-mapped.
    """
    cache = FeatureCache(folder)
    missing = cache.missing(records)
    if missing:
        cache.compute(
            {domain: records[domain] for domain in missing},
            make_embed_fn(model.features, strategy),
            model.backbone.output_shape[-1],
            model.image_size,
            model.resize_mode,
            batch_size,
            "features",
            show_progress,
        )
    return cache.read(records)
