"""Teachers: trained models or tables that a student learns from; never trained, never saved."""

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from universal_embedding.datasets.records import Records
from universal_embedding.errors import UserError
from universal_embedding.models.embedding_model import EmbeddingModel
from universal_embedding.training.teacher_sources import SavedModelTeacher, TeacherSource

PLACEHOLDER = "{domain}"


class Teacher:
    """One entry of `config.distillation.teachers`: a universal teacher, or one for each domain.

    Called on a batch, returns the embeddings of its images, `[b, D]` float32 unit rows, those of
    specialists each from its own domain's one: the cached rows that came with the batch (see
    `cached_rows`), or those of its augmented images. Where specialists differ in size, D is the
    largest; smaller embeddings are padded with zeros, which change no distance.

    Args:
        spec: See `training.config.teacher`.
        records: Training images by domain, of all domains of the run.
        folder: Directory of its cached rows.

    Attributes:
        name: Its name in the log.
        weight: Its weight among the teachers.
        is_universal: Whether one source embeds all of its domains, so that distances across domains
            are meaningful.
        known_domains: For each domain of the run, whether it knows it.
        sources: The universal source, or one for each of its domains, in order.

    Raises:
        UserError: it is to teach a domain that the run does not have.
    """

    def __init__(self, spec: ConfigDict, records: Mapping[str, Records], folder: Path) -> None:
        self.name, self.weight = spec.name or _default_name(spec.source), spec.weight
        self.domains = tuple(records)
        unknown = [domain for domain in spec.domains if domain not in records]
        if unknown:
            raise UserError(
                f"config.distillation.teachers: {self.name!r} has the domains {unknown}; the run "
                f"has {', '.join(records)}"
            )
        known = [domain for domain in records if domain in spec.domains or not spec.domains]
        self.is_universal = PLACEHOLDER not in spec.source
        groups = [known] if self.is_universal else [[domain] for domain in known]
        self.sources = [
            TeacherSource(
                spec.source.replace(PLACEHOLDER, group[0]),
                {domain: records[domain] for domain in group},
                folder / self.name,
                spec.image_size,
                spec.resize_mode,
            )
            for group in groups
        ]
        self.known_domains = [domain in known for domain in records]
        self._unknown = {
            domain: np.zeros((len(domain_records), 1), np.float32)
            for domain, domain_records in records.items()
            if domain not in known
        }
        self.rows_key, self.standardized_key = f"teacher/{self.name}", f"standardized/{self.name}"

    def batch_keys(self, standardized: bool) -> list[str]:
        """The entries of a batch with its cached rows."""
        return [self.rows_key, self.standardized_key] if standardized else [self.rows_key]

    def dim(self, strategy: tf.distribute.Strategy) -> int:
        """D."""
        return max(source.dim(strategy) for source in self.sources)

    @property
    def is_table(self) -> bool:
        """Whether it has rows of whole images only."""
        return any(source.is_table for source in self.sources)

    def knows(self, batch: Mapping[str, tf.Tensor]) -> tf.Tensor | None:
        """`[b]` bool: the images of a batch that it can embed; None: all."""
        if all(self.known_domains):
            return None
        return tf.gather(tf.constant(self.known_domains), batch["domain"])

    def taught_by(self, source: TeacherSource, batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """`[b]` bool: the images of a batch that one of its sources embeds."""
        is_taught = [domain in source.records for domain in self.domains]
        return tf.gather(tf.constant(is_taught), batch["domain"])

    def load(self) -> None:
        """Loads the models, to embed the images of each batch; call it in a strategy's scope.

        Raises:
            UserError: a model cannot be loaded.
        """
        for source in self.sources:
            source.load()

    def __call__(self, batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Embeds a batch, without gradient; see the class."""
        if self.rows_key in batch:
            return batch[self.rows_key]
        return self._embed(batch, standardized=False)

    def standardized(self, batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """The `[b, D]` float32 embeddings of a batch after PHI-S, without gradient."""
        if self.standardized_key in batch:
            return batch[self.standardized_key]
        return self._embed(batch, standardized=True)

    def cached_rows(
        self, strategy: tf.distribute.Strategy, standardized: bool, show_progress: bool = True
    ) -> dict[str, dict[str, np.ndarray]]:
        """Reads its rows of whole training images, after computing those that are missing.

        Args:
            strategy: Distributes the computation.
            standardized: Whether to read them after PHI-S as well.
            show_progress: Whether to show a progress bar.

        Returns:
            By key of the batch and domain of the run `[N, D]` float32, memory-mapped; D is that of
            the domain's source, or 1, with zeros, where it has none.

        Raises:
            UserError: a source that is needed cannot be opened.
        """
        rows = {self.rows_key: dict(self._unknown)}
        for source in self.sources:
            rows[self.rows_key] |= source.rows(strategy, show_progress)
        if standardized:
            rows[self.standardized_key] = dict(self._unknown)
            for source in self.sources:
                rows[self.standardized_key] |= source.standardized_rows(strategy, show_progress)
        return rows

    def _embed(self, batch: Mapping[str, tf.Tensor], standardized: bool) -> tf.Tensor:
        images = batch["image"]
        if self.is_universal:
            return tf.stop_gradient(self.sources[0].embed(images, standardized))
        dim = max(source.load().output_dim for source in self.sources)
        result = zeros = tf.zeros([tf.shape(images)[0], dim])
        for source in self.sources:
            mask = self.taught_by(source, batch)
            embed = functools.partial(_embed_padded, source, images, standardized, dim)
            rows = tf.cond(tf.reduce_any(mask), embed, lambda: zeros)
            result = tf.where(mask[:, None], rows, result)
        return tf.stop_gradient(result)


class Teachers:
    """The teachers of a run, in the order of `config.distillation.teachers`.

    Args:
        config: The config of the run.
        records: Training images by domain.
        folder: Directory of their cached rows, one below it for each teacher.

    Raises:
        UserError: two teachers have one name, or one is to teach an unknown domain.
    """

    def __init__(self, config: ConfigDict, records: Mapping[str, Records], folder: Path) -> None:
        self.config, self.folder = config, folder
        self._teachers = [Teacher(s, records, folder) for s in config.distillation.teachers]
        names = [teacher.name for teacher in self]
        for name in names:
            if names.count(name) > 1:
                raise UserError(
                    f"config.distillation.teachers has two teachers named {name!r}; give each a "
                    "`name` of its own"
                )

    @property
    def models(self) -> list[EmbeddingModel | SavedModelTeacher]:
        """The models that are loaded, in order."""
        sources = [source for teacher in self for source in teacher.sources]
        return [source.load() for source in sources if source.is_loaded]

    def __iter__(self) -> Iterator[Teacher]:
        return iter(self._teachers)

    def __len__(self) -> int:
        return len(self._teachers)

    def has_cached(self, reads_features: bool) -> bool:
        """Whether rows of some teacher are read from disk in a stage; see `stage_rows`."""
        return any(self._is_cached(teacher, reads_features) for teacher in self)

    def _is_cached(self, teacher: Teacher, reads_features: bool) -> bool:
        always = reads_features or self.config.distillation.cache_teachers
        return always or teacher.is_table

    def stage_rows(
        self,
        domains: Sequence[str],
        reads_features: bool,
        mixes_images: bool,
        strategy: tf.distribute.Strategy,
        show_progress: bool = True,
    ) -> dict[str, list[np.ndarray]]:
        """The cached rows that the batches of a stage carry; loads the teachers without any.

        Args:
            domains: Domains of the stage.
            reads_features: Whether batches have features in place of images.
            mixes_images: Whether images are mixed, which no cached row is of.
            strategy: Distributes the computation.
            show_progress: Whether to show a progress bar.

        Returns:
            By key of the batch, `[N, D]` float32 of each domain.

        Raises:
            UserError: a teacher cannot be opened, or rows are needed that it does not have.
        """
        standardized = self.config.losses.embedding_matching.weight > 0
        rows = {}
        for teacher in self:
            if self._is_cached(teacher, reads_features):
                if mixes_images:
                    remedy = "" if teacher.is_table else "set it to False, or "
                    reason = f"the table of the teacher {teacher.name!r}"
                    raise UserError(
                        f"{reason if teacher.is_table else 'config.distillation.cache_teachers'} "
                        f"has no embeddings of mixed images; {remedy}set "
                        "config.augmentation.mixup and config.augmentation.cutmix to 0"
                    )
                by_key = teacher.cached_rows(strategy, standardized, show_progress)
                for key, by_domain in by_key.items():
                    rows[key] = [by_domain[domain] for domain in domains]
                continue
            if standardized:
                for source in teacher.sources:
                    source.fit(strategy, show_progress)
            with strategy.scope():
                teacher.load()
        return rows


def _default_name(source: str) -> str:
    """The last part of a source's path that is not `{domain}`, without the ending of a file."""
    parts = [part for part in source.split("/") if part and PLACEHOLDER not in part]
    name = re.sub(r"\.(keras|h5|npz|npy)$", "", parts[-1] if parts else "teacher")
    return re.sub(r"[^\w.-]", "_", name)


def _embed_padded(
    source: TeacherSource, images: tf.Tensor, standardized: bool, dim: int
) -> tf.Tensor:
    rows = source.embed(images, standardized)
    return tf.pad(rows, [[0, 0], [0, dim - rows.shape[-1]]])
