"""The TFDS builder that every data set of the package shares."""

import abc
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import dataset_builder, decode

from universal_embedding.datasets import generation, sidecars
from universal_embedding.datasets.collection import Collection, Entries
from universal_embedding.datasets.shards import features

if TYPE_CHECKING:
    import tensorflow as tf

OPTIONS = "options.json"


class PictureBuilder(dataset_builder.FileReaderBuilder, skip_registration=True):
    """Writes a `Collection` as ArrayRecord files: record n of a split is its n-th entry.

    Shards are written each by one worker that holds one picture at a time: in this process, or in
    those of a Beam pipeline if the `tfds.download.DownloadConfig` names a `beam_runner`. Nothing
    stands under the version's name before everything is written and counted.

    Attributes:
        skip_broken: Leave out pictures that cannot be decoded; else the first one is an error.
        progress: Show a progress bar.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[Mapping[str, str]] = {"1.0.0": "First."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Put images/ and info_files/ into the manual folder."
    # What may be downloaded, by address. TFDS would look for a file of it beside the code.
    url_infos: ClassVar[Mapping[str, tfds.download.checksums.UrlInfo]] = {}

    def __init__(self, *, skip_broken: bool = False, progress: bool = False, **kwargs: Any) -> None:
        self.skip_broken = skip_broken
        self.progress = progress
        super().__init__(file_format="array_record", **kwargs)

    @abc.abstractmethod
    def collect(self, dl_manager: tfds.download.DownloadManager) -> Collection:
        """Finds the pictures of this builder's config."""

    def check(self, splits: Mapping[str, Entries]) -> None:
        """Compares pictures and classes with what was published, before and after writing."""

    @property
    def options(self) -> dict[str, Any]:
        """What the entries depend on besides the files, such as a seed; kept beside the records."""
        return {}

    def describe(self) -> dict[str, Any]:
        """What `tfds.core.DatasetInfo` is to say of this data set."""
        return {}

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self, features=features(), disable_shuffling=True, **self.describe()
        )

    def _download_and_prepare(
        self,
        dl_manager: tfds.download.DownloadManager,
        download_config: tfds.download.DownloadConfig,
    ) -> None:
        collection = self.collect(dl_manager)
        self.check(collection.splits)
        folder = Path(self.data_dir)
        written = generation.generate(
            collection,
            folder,
            self._record_file,
            self.skip_broken,
            self.progress,
            download_config.beam_runner,
            download_config.beam_options,
        )
        self.check({name: split.entries for name, split in written.items()})
        for name, split in written.items():
            sidecars.write(folder, name, split.entries.labels, split.entries.paths)
        sidecars.write_class_names(folder, collection.class_names)
        (folder / OPTIONS).write_text(json.dumps(self.options))
        self.info.set_splits(
            tfds.core.SplitDict(
                tfds.core.SplitInfo(
                    name=name,
                    shard_lengths=split.shard_lengths,
                    num_bytes=split.bytes,
                    filename_template=self._get_filename_template(split_name=name),
                )
                for name, split in written.items()
            )
        )

    def _log_download_bytes(self) -> None:
        """TFDS would print that it is "Downloading"."""

    def _log_download_done(self) -> None:
        """The program says it."""

    def _record_file(self, split: str, shard: int, shards: int) -> str:
        template = self._get_filename_template(split_name=split)
        return template.sharded_filepath(shard_index=shard, num_shards=shards).name

    def _as_dataset(
        self,
        split: Any,
        decoders: Any = None,
        read_config: Any = None,
        shuffle_files: bool = False,
    ) -> "tf.data.Dataset":
        import tensorflow as tf  # only to read: see pictures.py

        # TFDS itself gives no tf.data over ArrayRecord, so that `tfds.load` would refuse.
        raw = decode.DeserializeMethod.RAW_BYTES
        records = self.as_data_source(split, deserialize_method=raw)

        def read(numbers: np.ndarray) -> np.ndarray:
            return np.array(records.__getitems__(numbers.tolist()), object)

        numbers = tf.data.Dataset.range(len(records)).batch(64)
        encoded = numbers.map(lambda batch: tf.numpy_function(read, [batch], tf.string)).unbatch()
        encoded = encoded.map(lambda record: tf.ensure_shape(record, []))
        return encoded.map(partial(features().deserialize_example, decoders=decoders))
