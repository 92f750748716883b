"""Models and tables that teach: opened, identified, and their rows kept on disk."""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from universal_embedding.datasets.embedding_table import (
    EmbeddingTable,
    fingerprint_files,
    is_table,
)
from universal_embedding.datasets.records import Records
from universal_embedding.errors import UserError
from universal_embedding.files import as_path, fetch
from universal_embedding.input.augmentation import to_uint8
from universal_embedding.models.backbones import list_backbones, load_backbone, split_spec
from universal_embedding.models.backbones.loading import is_hub_handle, load_keras_file
from universal_embedding.models.distribution import run_on_hosts
from universal_embedding.models.embedding_model import EmbeddingModel
from universal_embedding.models.graph_check import check_graph
from universal_embedding.models.inference import RecordEmbedder
from universal_embedding.training.checkpoints import load_embedding_model
from universal_embedding.training.feature_cache import BlockEmbedder, FeatureCache
from universal_embedding.training.phi_s import PhiS

CACHE_BATCH_SIZE = 64
DEFAULT_IMAGE_SIZE = 224
_BLOCK = 1 << 14
KERAS_SUFFIXES = (".keras", ".h5")


class TeacherSource:
    """One model or table, and its rows for the training images of some domains.

    Args:
        source: A run directory, a SavedModel directory, a backbone (see
            `models.backbones.load_backbone`), or a table (see `EmbeddingTable`).
        records: Training images by domain, of the domains that it teaches.
        folder: Directory of its rows on disk; see `FeatureCache`.
        image_size: Of a backbone's images; 0: its own size if it has one, else 224.
        resize_mode: Of a backbone's images.
    """

    def __init__(
        self,
        source: str,
        records: Mapping[str, Records],
        folder: Path,
        image_size: int = 0,
        resize_mode: str = "squash",
    ) -> None:
        self.source, self.records, self.folder = source, dict(records), folder
        self.is_table = not is_hub_handle(source) and is_table(source)
        self._image_size, self._resize_mode = image_size, resize_mode
        self._model: EmbeddingModel | SavedModelTeacher | None = None
        self.phi_s: PhiS | None = None

    @property
    def is_loaded(self) -> bool:
        """Whether the model is in memory."""
        return self._model is not None

    def load(self) -> "EmbeddingModel | SavedModelTeacher":
        """Loads the model once; call it in a strategy's scope.

        Raises:
            UserError: it cannot be loaded.
        """
        if self._model is None:
            try:
                self._model = load_teacher(self.source, self._image_size, self._resize_mode)
            except UserError as error:
                raise UserError(f"config.distillation.teachers: {error}") from error
            if isinstance(self._model, EmbeddingModel):
                self._model.trainable = False
        return self._model

    def dim(self, strategy: tf.distribute.Strategy) -> int:
        """The size of its embeddings, from the rows on disk if they are there."""
        cache = FeatureCache(self.folder, strategy)
        if self._model is None and not cache.missing(self.records, self.key()):
            return next(iter(cache.read(self.records).values())).shape[1]
        return self._open_table().dim if self.is_table else self.load().output_dim

    def embed(self, images: tf.Tensor, standardized: bool = False) -> tf.Tensor:
        """Embeds `[b, S, S, 3]` images as `[b, D]` float32 unit rows, after PHI-S if asked for.

        Call `load` before, and `fit` for PHI-S.
        """
        rows = self.load()(images, training=False)
        if not standardized:
            return rows
        if self.phi_s is None:
            raise ValueError("PHI-S was not fitted")
        rotation = (self.phi_s.rotation / self.phi_s.scale).astype(np.float32)
        return tf.matmul(rows - self.phi_s.mean.astype(np.float32), rotation)

    def rows(
        self, strategy: tf.distribute.Strategy, show_progress: bool = True
    ) -> dict[str, np.ndarray]:
        """Reads the rows of whole training images, after computing those that are missing.

        Returns:
            `[N, D]` float32 unit rows by domain, memory-mapped.

        Raises:
            UserError: the model or the table cannot be opened, or has no row for an image.
        """
        cache, key = FeatureCache(self.folder, strategy), self.key()
        missing = {domain: self.records[domain] for domain in cache.missing(self.records, key)}
        if missing:
            embedder: BlockEmbedder
            if self.is_table:
                embedder = self._open_table()
            else:
                with strategy.scope():
                    model = self.load()
                embedder = RecordEmbedder(
                    model, strategy, model.image_size, model.resize_mode, CACHE_BATCH_SIZE
                )
            unit_rows = _UnitRows(embedder, self.source)
            cache.compute(missing, key, unit_rows, "teachers", show_progress)
        return cache.read(self.records)

    def standardized_rows(
        self, strategy: tf.distribute.Strategy, show_progress: bool = True
    ) -> dict[str, np.ndarray]:
        """Reads the rows after PHI-S, which is fitted to them; see `rows`.

        Returns:
            `[N, D]` float32 by domain, memory-mapped.
        """
        rows = self.rows(strategy, show_progress)
        phi_s, key = self.fit(strategy, show_progress)
        cache = FeatureCache(self.folder / "standardized", strategy)
        missing = {domain: self.records[domain] for domain in cache.missing(self.records, key)}
        if missing:
            standardized = _StandardizedRows(rows, phi_s)
            cache.compute(missing, key, standardized, "standardized", show_progress)
        return cache.read(self.records)

    def fit(self, strategy: tf.distribute.Strategy, show_progress: bool = True) -> tuple[PhiS, str]:
        """PHI-S, fitted to the rows once and kept beside them, and a key that identifies it."""
        rows = self.rows(strategy, show_progress)
        keys = [(self.folder / f"{domain}.key").read_text("utf-8") for domain in rows]
        key = hashlib.sha256("\n".join(keys).encode()).hexdigest()
        name = "phi_s.npz" if len(rows) > 1 else f"{next(iter(rows))}.phi_s.npz"

        def fit() -> PhiS:
            phi_s = PhiS.load(self.folder / name, key)
            if phi_s is None:
                blocks = [np.array_split(r, -(-len(r) // _BLOCK)) for r in rows.values()]
                phi_s = PhiS.fit(itertools.chain.from_iterable(blocks))
                phi_s.save(self.folder / name, key)
            return phi_s

        self.phi_s = run_on_hosts(fit, strategy, chief_first=True)
        return self.phi_s, key

    def key(self) -> str:
        """Identifies the source by small files or by times of large ones; "" if it is gone."""
        options = f"{self._image_size} {self._resize_mode}"
        if self.is_table or _is_backbone(self.source):
            return " ".join([*map(_fingerprint, split_spec(self.source)), options])
        path = as_path(self.source)
        if not path.exists():
            return ""
        digest = hashlib.sha256()
        # These small files hold checksums of the weights.
        for name in ("saved_model.pb", "variables/*.index", "config.json", "checkpoints/*/*.index"):
            for file in sorted(path.glob(name)):
                digest.update(file.read_bytes())
        return digest.hexdigest()

    def _open_table(self) -> EmbeddingTable:
        table = EmbeddingTable(self.source)
        if len(self.records) > 1 and not table.has_domains:
            raise UserError(
                f"config.distillation.teachers: {self.source} has no column `domain`, and it is to "
                f"teach {len(self.records)} domains; add the column, or give a table for each by "
                "{domain} in its name"
            )
        return table


class SavedModelTeacher:
    """An exported model with the interface of an `EmbeddingModel`.

    Args:
        folder: SavedModel directory with a signature `serving_default` from one uint8
            `[B, H, W, 3]` to `embedding_norm` `[B, D]`.

    Raises:
        UserError: the signature is missing, or its batch size is fixed or its D unknown.
    """

    image_size = DEFAULT_IMAGE_SIZE  # of cached rows; the exported model resizes images itself
    resize_mode = "squash"

    def __init__(self, folder: Path) -> None:
        check_graph(folder, folder)
        self._model = tf.saved_model.load(str(folder))  # keeps the signature's variables alive
        signature = self._model.signatures.get("serving_default")
        if signature is None or "embedding_norm" not in signature.structured_outputs:
            raise UserError(
                f"{folder} has no signature serving_default that returns embedding_norm; write it "
                "with universal-embedding export"
            )
        self._signature: Callable = signature
        ((self._input_name, spec),) = signature.structured_input_signature[1].items()
        self.output_dim = signature.structured_outputs["embedding_norm"].shape[-1]
        if spec.shape[0] is not None or self.output_dim is None:
            raise UserError(
                f"{folder}: its signature serving_default maps {spec.shape} to vectors of "
                f"{self.output_dim} dimensions; a teacher needs any batch size and a known "
                "dimension. Write it with universal-embedding export"
            )

    def __call__(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """`[b, S, S, 3]` in 0..255 -> `[b, D]` float32 unit rows; `training` is ignored."""
        return self._signature(**{self._input_name: to_uint8(images)})["embedding_norm"]


def load_teacher(
    source: str, image_size: int = 0, resize_mode: str = "squash"
) -> EmbeddingModel | SavedModelTeacher:
    """Loads a run, a SavedModel or a backbone; see `TeacherSource`.

    Raises:
        UserError: there is none.
    """
    if not _is_backbone(source):
        path = as_path(source)
        is_export = (path / "saved_model.pb").is_file()
        return SavedModelTeacher(fetch(path)) if is_export else load_embedding_model(path)
    if not image_size and Path(source).suffix in KERAS_SUFFIXES and len(split_spec(source)) == 1:
        file = Path(fetch(source))
        image_size = load_keras_file(file, DEFAULT_IMAGE_SIZE, None).input_shape[1]
    image_size = image_size or DEFAULT_IMAGE_SIZE
    return EmbeddingModel(load_backbone(source, image_size), None, image_size, resize_mode)


def _is_backbone(source: str) -> bool:
    """Whether it is something for `load_backbone`, not a run or a SavedModel."""
    if is_hub_handle(source) or len(split_spec(source)) > 1:
        return True
    path = as_path(source)
    if path.exists() or "/" in source:
        return path.suffix in KERAS_SUFFIXES or _is_preset(path)
    return path.suffix in KERAS_SUFFIXES or source in list_backbones()


def _is_preset(path: Path) -> bool:
    """Whether it is a directory written by KerasHub's `save_to_preset`, not a run."""
    try:
        return "registered_name" in json.loads((path / "config.json").read_text())
    except (OSError, ValueError):
        return False


def _fingerprint(spec: str) -> str:
    """Identifies a file, a preset or a table; see `fingerprint_files`."""
    if is_hub_handle(spec):
        return spec
    weights = as_path(spec) / "model.weights.h5"  # of a preset
    return fingerprint_files(weights if weights.exists() else spec) or spec


class _UnitRows:
    """The rows of another embedder at unit length; unit rows stay as they are, to the last bit."""

    def __init__(self, embedder: BlockEmbedder, source: str) -> None:
        self._embedder, self._source = embedder, source

    def embed_blocks(self, records: Records, start: int = 0) -> Iterator[np.ndarray]:
        for rows in self._embedder.embed_blocks(records, start):
            norms = np.linalg.norm(rows, axis=1, keepdims=True)
            if not np.isfinite(norms).all():
                row = start + int(np.flatnonzero(~np.isfinite(norms))[0])
                raise UserError(
                    f"config.distillation.teachers: {self._source} gives numbers that are not "
                    f"finite for {records.domain}, image_id={records.image_ids[row]!r}; check it"
                )
            changed = (np.abs(norms - 1.0) > 1e-5) & (norms > 0)
            yield np.divide(rows, norms, out=rows.copy(), where=changed)
            start += len(rows)


class _StandardizedRows:
    """Rows in memory or on disk, standardized."""

    def __init__(self, rows: Mapping[str, np.ndarray], phi_s: PhiS) -> None:
        self._rows, self._phi_s = rows, phi_s

    def embed_blocks(self, records: Records, start: int = 0) -> Iterator[np.ndarray]:
        rows = self._rows[records.domain]
        for first in range(start, len(rows), _BLOCK):
            yield self._phi_s.apply(np.asarray(rows[first : first + _BLOCK]))
