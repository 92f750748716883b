"""Trained models that a student learns from: never trained, never in its checkpoint."""

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from universal_embedding.datasets.records import Records
from universal_embedding.errors import UserError
from universal_embedding.files import as_path, fetch
from universal_embedding.input.augmentation import to_uint8
from universal_embedding.models.embedding_model import EmbeddingModel
from universal_embedding.models.graph_check import check_graph
from universal_embedding.models.inference import RecordEmbedder
from universal_embedding.training.checkpoints import load_embedding_model
from universal_embedding.training.feature_cache import FeatureCache

CACHE_BATCH_SIZE = 64
PLACEHOLDER = "{domain}"


class Teachers:
    """A specialist for each domain, or one universal model for all domains.

    Called on a batch, returns the embeddings of its images, `[b, D]` float32 unit rows, each from
    its own domain's teacher: the cached ones that came with the batch (see `cached_embeddings`), or
    those of its augmented images. Where teachers differ in size, D is the largest; smaller
    embeddings are padded with zeros, which change no distance.

    Args:
        pattern: Run directory or SavedModel directory, with `{domain}` for the domain's key;
            without `{domain}`, one universal teacher.
        domains: All domains of the run, in order.

    Attributes:
        is_universal: Whether one teacher embeds all domains, so that distances across domains are
            meaningful.
        models: The teachers in order of the domains, or the universal one; empty before `load`.
    """

    def __init__(self, pattern: str, domains: Sequence[str]) -> None:
        self.pattern, self.domains = pattern, tuple(domains)
        self.is_universal = PLACEHOLDER not in pattern
        self.models: list[EmbeddingModel | SavedModelTeacher] = []

    def load(self) -> None:
        """Loads the teachers, to embed the images of each batch; call it in a strategy's scope.

        Raises:
            UserError: a teacher cannot be loaded.
        """
        keys = self.domains[:1] if self.is_universal else self.domains
        self.models = self.models or [self._load_teacher(domain) for domain in keys]

    def __call__(self, batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Embeds a batch, without gradient; see the class."""
        if "teacher" in batch:
            return batch["teacher"]
        images = batch["image"]
        if self.is_universal:
            return tf.stop_gradient(self.models[0](images))
        dim = max(teacher.output_dim for teacher in self.models)
        result = zeros = tf.zeros([tf.shape(images)[0], dim])
        for index, teacher in enumerate(self.models):
            mask = batch["domain"] == index
            embed = functools.partial(_embed_padded, teacher, images, dim)
            rows = tf.cond(tf.reduce_any(mask), embed, lambda: zeros)
            result = tf.where(mask[:, None], rows, result)
        return tf.stop_gradient(result)

    def cached_embeddings(
        self,
        folder: Path,
        records: Mapping[str, Records],
        strategy: tf.distribute.Strategy,
        show_progress: bool = True,
    ) -> dict[str, np.ndarray]:
        """Reads the embeddings of whole training images, after computing those that are missing.

        Args:
            folder: Directory of the cache; see `FeatureCache`.
            records: Images by domain.
            strategy: Distributes the computation.
            show_progress: Whether to show a progress bar.

        Returns:
            `[N, D]` float32 by domain, memory-mapped; D is that of the domain's teacher.

        Raises:
            UserError: a teacher that is needed cannot be loaded.
        """
        cache = FeatureCache(folder, strategy)
        groups = [list(records)] if self.is_universal else [[domain] for domain in records]
        for domains in groups:
            model_key = self._teacher_key(domains[0])
            group = {domain: records[domain] for domain in domains}
            missing = {domain: records[domain] for domain in cache.missing(group, model_key)}
            if not missing:
                continue
            with strategy.scope():
                teacher = self._load_teacher(domains[0])
            embedder = RecordEmbedder(
                teacher, strategy, teacher.image_size, teacher.resize_mode, CACHE_BATCH_SIZE
            )
            cache.compute(missing, model_key, embedder, "teachers", show_progress)
        return cache.read(records)

    def _teacher_key(self, domain: str) -> str:
        """Identifies a teacher by small files, which hold checksums of its weights; "" if gone."""
        folder = as_path(self.pattern.replace(PLACEHOLDER, domain))
        if not folder.exists():
            return ""
        digest = hashlib.sha256()
        for name in ("saved_model.pb", "variables/*.index", "config.json", "checkpoints/*/*.index"):
            for path in sorted(folder.glob(name)):
                digest.update(path.read_bytes())
        return digest.hexdigest()

    def _load_teacher(self, domain: str) -> "EmbeddingModel | SavedModelTeacher":
        folder = as_path(self.pattern.replace(PLACEHOLDER, domain))
        if (folder / "saved_model.pb").is_file():
            return SavedModelTeacher(fetch(folder))
        try:
            teacher = load_embedding_model(folder)
        except UserError as error:
            raise UserError(f"config.distillation.teachers: {error}") from error
        teacher.trainable = False
        return teacher


class SavedModelTeacher:
    """An exported model with the interface of an `EmbeddingModel`.

    Args:
        folder: SavedModel directory with a signature `serving_default` from one uint8
            `[B, H, W, 3]` to `embedding_norm` `[B, D]`.

    Raises:
        UserError: the signature is missing, or its batch size is fixed or its D unknown.
    """

    image_size = 224  # of cached embeddings; the exported model resizes images itself
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


def _embed_padded(
    teacher: EmbeddingModel | SavedModelTeacher, images: tf.Tensor, dim: int
) -> tf.Tensor:
    rows = teacher(images, training=False)
    return tf.pad(rows, [[0, 0], [0, dim - teacher.output_dim]])
