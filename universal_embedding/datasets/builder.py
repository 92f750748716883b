"""The base of all datasets of the package: writes TFRecord files that `tfds.load` reads."""

import abc
import contextlib
import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from universal_embedding.datasets import metadata, records
from universal_embedding.datasets.examples import DatasetManifest, SplitManifest
from universal_embedding.datasets.lock import hold_lock
from universal_embedding.datasets.writer import (
    LOCK_FILE,
    WORK_DIR,
    WriteOptions,
    WriteResult,
    write_splits,
)
from universal_embedding.files import as_path, atomic_write

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions


class ImageRetrievalBuilder(abc.ABC):
    """Writes one domain: record n of a split is its n-th image.

    Each shard is written by one worker: in this process, or in those of a Beam pipeline. Shards
    stand under their final names at once; `options.json`, written last, makes the folder a prepared
    one. Until then another call keeps the whole shards and writes the others.

    Attributes:
        dataset: Name of the dataset.
        domain: Key of the domain.
        data_dir: Directory of prepared datasets.
        max_side: Larger images are made this large, see `to_tf_decodable`; None: no image is.
        skip_corrupt: Leave out images that cannot be decoded; otherwise the first one is an error.
        show_progress: Show a progress bar.
    """

    def __init__(
        self,
        dataset: str,
        domain: str,
        *,
        data_dir: str | os.PathLike | None = None,
        max_side: int | None = None,
        skip_corrupt: bool = False,
        show_progress: bool = False,
    ) -> None:
        self.dataset = dataset
        self.domain = domain
        self.data_dir = as_path(data_dir or records.default_data_dir())
        self.max_side = max_side
        self.skip_corrupt = skip_corrupt
        self.show_progress = show_progress

    @abc.abstractmethod
    def list_examples(self, manual_dir: epath.Path) -> DatasetManifest:
        """Lists the images of this domain."""

    def check_source(self, manual_dir: epath.Path, stored: Mapping[str, Any]) -> None:  # noqa: B027
        """Compares the images with the stored options of those that were prepared."""

    def validate_counts(self, splits: Mapping[str, SplitManifest]) -> None:  # noqa: B027
        """Compares the splits with the published counts; called before and after writing."""

    @property
    def options(self) -> dict[str, Any]:
        """Settings, such as a seed, that the records depend on; stored beside them."""
        return {"max_side": self.max_side}

    @property
    def metadata(self) -> dict[str, Any]:
        """Arguments of `tfds.core.DatasetInfo`, such as the citation."""
        return {}

    @property
    def instructions(self) -> str:
        """Instructions for a missing download."""
        return "Put images/ and info_files/ into the manual folder."

    @property
    def folder(self) -> epath.Path:
        """The prepared folder: `<data_dir>/<dataset>/<domain>/<version>`."""
        return self.data_dir / self.dataset / self.domain / records.VERSION

    @property
    def is_prepared(self) -> bool:
        """Whether `folder` is whole."""
        return metadata.read_options(self.folder) is not None

    def prepare(
        self, manual_dir: epath.Path, beam_options: "PipelineOptions | None" = None
    ) -> dict[str, WriteResult] | None:
        """Writes what is missing of the domain.

        Returns:
            The written splits, by name; None if the domain has been prepared meanwhile.

        Raises:
            UserError: An image is corrupt or missing, the counts are wrong, or another run is
                preparing the same domain.
        """
        manifest = self.list_examples(manual_dir)
        self.validate_counts(manifest.splits)
        work_dir = self.folder / WORK_DIR
        work_dir.mkdir(parents=True, exist_ok=True)
        with hold_lock(work_dir / LOCK_FILE):
            if self.is_prepared:
                return None
            templates = {split: self._filename_template(split) for split in manifest.splits}
            written = write_splits(
                manifest,
                self.folder,
                lambda split, i, n: (
                    templates[split].sharded_filepath(shard_index=i, num_shards=n).name
                ),
                WriteOptions(self.max_side, self.skip_corrupt, self.show_progress, beam_options),
                {"version": records.VERSION, **self.options},
            )
            self.validate_counts({split: result.manifest for split, result in written.items()})
            self._write_metadata(manifest, written, templates)
        self.remove_work_dir()
        return written

    def remove_work_dir(self) -> None:
        """Removes the working folder of a prepared domain, if it is still there."""
        with contextlib.suppress(OSError):  # another run just looked in
            (self.folder / WORK_DIR).rmtree(missing_ok=True)

    def _filename_template(self, split: str) -> tfds.core.ShardedFileTemplate:
        return tfds.core.ShardedFileTemplate(
            data_dir=self.folder,
            dataset_name=self.dataset,
            split=split,
            filetype_suffix="tfrecord",
        )

    def _write_metadata(
        self,
        manifest: DatasetManifest,
        written: Mapping[str, WriteResult],
        templates: Mapping[str, tfds.core.ShardedFileTemplate],
    ) -> None:
        for split, result in written.items():
            records.write_record_table(
                self.folder, split, result.manifest.labels, result.manifest.paths, result.lengths
            )
        metadata.write_class_names(self.folder, manifest.class_names)
        tfds.folder_dataset.write_metadata(
            data_dir=self.folder,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "label": tfds.features.Sequence(np.int64),
                    "image_id": tfds.features.Text(),
                }
            ),
            split_infos=[
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=[len(lengths) for lengths in result.lengths],
                    num_bytes=sum(int(lengths.sum()) for lengths in result.lengths),
                    filename_template=templates[split],
                )
                for split, result in written.items()
            ],
            version=records.VERSION,
            check_data=False,
            disable_shuffling=True,
            **self.metadata,
        )
        with atomic_write(self.folder / metadata.OPTIONS_FILE) as file:  # last: see the class
            json.dump(self.options, file)
