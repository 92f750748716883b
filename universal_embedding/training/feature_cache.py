"""Embeddings or backbone features of all training images, computed once and kept on disk."""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import keras
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
    with the domains that are missing. `folder/<domain>.key` identifies the images and the model
    that a file was computed from; a file of others is computed again.

    Args:
        folder: Directory of the files; made if missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def missing(self, records: Mapping[str, Records], model_key: str) -> list[str]:
        """The domains without a file of these images and this model.

        Args:
            records: Images by domain.
            model_key: Identifies the model; see `hash_weights`. Empty: any model.
        """
        return [
            domain
            for domain, domain_records in records.items()
            if not self._is_current(domain, domain_records, model_key)
        ]

    def _is_current(self, domain: str, records: Records, model_key: str) -> bool:
        try:
            rows = np.load(self._path(domain), mmap_mode="r")
            images_key, key = self._key_path(domain).read_text("utf-8").split("\n")
        except (OSError, ValueError, EOFError):
            return False
        is_same_model = model_key in ("", key)
        return (
            rows.ndim == 2
            and len(rows) == len(records)
            and is_same_model
            and (images_key == _hash_images(records))
        )

    def read(self, domains: Iterable[str]) -> dict[str, np.ndarray]:
        """`[N, D]` float32 by domain, memory-mapped."""
        return {domain: np.load(self._path(domain), mmap_mode="r") for domain in domains}

    def compute(
        self,
        records: Mapping[str, Records],
        model_key: str,
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
            model_key: Identifies the model.
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
                    # A full disk is an error here; later, the map would end the process.
                    os.posix_fallocate(file.fileno(), 0, os.path.getsize(file.name))
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
                with atomic_write(self._key_path(domain)) as file:
                    file.write(f"{_hash_images(domain_records)}\n{model_key}")

    def _path(self, domain: str) -> Path:
        return self.folder / f"{domain}.npy"

    def _key_path(self, domain: str) -> Path:
        return self.folder / f"{domain}.key"


def hash_weights(model: keras.Model) -> str:
    """sha256 of a model's weights."""
    digest = hashlib.sha256()
    for weight in model.weights:
        digest.update(np.ascontiguousarray(weight.numpy()).tobytes())
    return digest.hexdigest()


def _hash_images(records: Records) -> str:
    digest = hashlib.sha256(f"{records.domain} {records.split}".encode())
    for image_id in records.image_ids:
        digest.update(f"\n{image_id}".encode())
    return digest.hexdigest()


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
    model_key = f"{hash_weights(model.backbone)} {model.image_size} {model.resize_mode}"
    missing = cache.missing(records, model_key)
    if missing:
        cache.compute(
            {domain: records[domain] for domain in missing},
            model_key,
            make_embed_fn(model.features, strategy),
            model.backbone.output_shape[-1],
            model.image_size,
            model.resize_mode,
            batch_size,
            "features",
            show_progress,
        )
    return cache.read(records)
