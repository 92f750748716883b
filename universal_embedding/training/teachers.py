"""Trained models that a student learns from: never trained, never in its checkpoint."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from universal_embedding.datasets.records import Records
from universal_embedding.errors import UserError
from universal_embedding.models.embedder import Embedder
from universal_embedding.training.checkpoints import load_embedder
from universal_embedding.training.features import cached_rows

BATCH = 64  # pictures, when embeddings are computed once
PLACE = "{domain}"


class Teachers:
    """One specialist for each domain, or one universal model for all.

    Called on a batch, gives the embeddings `[b, D]` float32, unit rows, of its pictures, each by
    its own domain's teacher: those that came with the batch (see `cached`), or those of its
    augmented pictures. Where teachers differ in size, D is the largest, filled up with zeros,
    which change no distance.

    Args:
        pattern: Work directory, or a SavedModel's, with `{domain}` in place of the domain's key;
            without `{domain}`, one universal teacher.
        domains: All domains of the run, in order.

    Attributes:
        universal: Whether one teacher knows all domains, so that pairs across domains mean
            something.
    """

    def __init__(self, pattern: str, domains: Sequence[str]) -> None:
        self.pattern, self.domains = pattern, tuple(domains)
        self.universal = PLACE not in pattern
        self._loaded: list[Embedder | _Exported] = []

    def load(self) -> None:
        """Loads the teachers, to be run on the pictures of each batch; in a strategy's scope.

        Raises:
            UserError: one of them cannot be loaded.
        """
        keys = self.domains[:1] if self.universal else self.domains
        self._loaded = self._loaded or [self._open(domain) for domain in keys]

    def __call__(self, batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """The teachers' embeddings of a batch, without gradient."""
        if "teacher" in batch:
            return batch["teacher"]
        images = batch["image"]
        if self.universal:
            return tf.stop_gradient(self._loaded[0](images))
        width = max(teacher.output_dimension for teacher in self._loaded)
        result = nothing = tf.zeros([tf.shape(images)[0], width])
        for number, teacher in enumerate(self._loaded):
            here = batch["domain"] == number
            run = functools.partial(_widened, teacher, images, width)
            rows = tf.cond(tf.reduce_any(here), run, lambda: nothing)
            result = tf.where(here[:, None], rows, result)
        return tf.stop_gradient(result)

    def cached(
        self,
        folder: Path,
        records: Mapping[str, Records],
        strategy: tf.distribute.Strategy,
        show: bool = True,
    ) -> dict[str, np.ndarray]:
        """Embeddings of whole training pictures, kept in `folder/<domain>.npy`; made if missing.

        Returns:
            `[N, D]` float32 by domain, all of one size.
        """
        rows = {}
        for group in [records] if self.universal else [{d: r} for d, r in records.items()]:
            teacher = None
            if any(not (folder / f"{domain}.npy").exists() for domain in group):
                with strategy.scope():
                    teacher = self._open(next(iter(group)))
            rows |= cached_rows(folder, group, teacher, strategy, BATCH, "teachers", show)
        width = max(of.shape[1] for of in rows.values())
        return {
            domain: of if of.shape[1] == width else np.pad(of, [(0, 0), (0, width - of.shape[1])])
            for domain, of in rows.items()
        }

    def _open(self, domain: str) -> "Embedder | _Exported":
        folder = Path(self.pattern.replace(PLACE, domain))
        if (folder / "saved_model.pb").is_file():
            return _Exported(folder)
        try:
            teacher = load_embedder(folder)
        except UserError as error:
            raise UserError(f"config.distillation.teachers: {error}") from error
        teacher.trainable = False
        return teacher


class _Exported:
    """A SavedModel of tools/export.py in the place of an `Embedder`."""

    aspect = "squash"

    def __init__(self, folder: Path) -> None:
        self._model = tf.saved_model.load(str(folder))
        self._signature: Callable = self._model.signatures["serving_default"]
        (spec,) = self._signature.structured_input_signature[1].values()
        self._name = next(iter(self._signature.structured_input_signature[1]))
        self.output_dimension = self._signature.structured_outputs["embedding_norm"].shape[-1]
        if spec.shape[0] is not None or self.output_dimension is None:
            raise UserError(
                f"{folder}: its signature serving_default takes {spec.shape} and gives vectors of "
                f"{self.output_dimension} numbers; a teacher takes batches and has a known size. "
                "Write it with tools/export.py"
            )
        self.image_size = 224  # of cached embeddings; the model resizes pictures itself

    def __call__(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        pictures = tf.cast(tf.clip_by_value(tf.round(images), 0, 255), tf.uint8)
        return self._signature(**{self._name: pictures})["embedding_norm"]


def _widened(teacher: "Embedder | _Exported", images: tf.Tensor, width: int) -> tf.Tensor:
    rows = teacher(images, training=False)
    return tf.pad(rows, [[0, 0], [0, width - teacher.output_dimension]])
