"""The TFDS builder that all datasets of the package share."""

import abc
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from universal_embedding.datasets import records
from universal_embedding.datasets.examples import DatasetManifest, SplitManifest
from universal_embedding.datasets.shards import record_features
from universal_embedding.datasets.writer import write_splits

if TYPE_CHECKING:
    import tensorflow as tf

OPTIONS_FILE = "options.json"


class ImageRetrievalBuilder(  # type: ignore[call-arg]  # TFDS takes `skip_registration`
    tfds.core.dataset_builder.FileReaderBuilder, skip_registration=True
):
    """Writes a `DatasetManifest` as ArrayRecord files: record n of a split is its n-th image.

    Each shard is written by one worker that holds one image at a time: in this process, or in those
    of a Beam pipeline if the `tfds.download.DownloadConfig` names a runner or options of Beam. The
    version's folder appears only when everything is written and counted.

    Attributes:
        skip_corrupt: Leave out images that cannot be decoded; otherwise the first one is an error.
        show_progress: Show a progress bar.
    """

    VERSION = tfds.core.Version(records.VERSION)
    RELEASE_NOTES: ClassVar[Mapping[str, str]] = {
        "1.0.0": "Initial release.",
        "2.0.0": "Transparent images are composited on white.",
    }
    # UrlInfo of each download, by URL. TFDS would look for a file of checksums beside the code.
    url_infos: ClassVar[Mapping[str, tfds.download.checksums.UrlInfo]] = {}

    def __init_subclass__(cls, skip_registration: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(skip_registration=skip_registration, **kwargs)

    def __init__(
        self, *, skip_corrupt: bool = False, show_progress: bool = False, **kwargs: Any
    ) -> None:
        self.skip_corrupt = skip_corrupt
        self.show_progress = show_progress
        super().__init__(file_format="array_record", **kwargs)

    @abc.abstractmethod
    def list_examples(self, dl_manager: tfds.download.DownloadManager) -> DatasetManifest:
        """Lists the images of this builder's config."""

    def validate_counts(self, splits: Mapping[str, SplitManifest]) -> None:
        """Compares the splits with the published counts; called before and after writing."""

    @property
    def options(self) -> dict[str, Any]:
        """Settings, such as a seed, that the splits depend on; stored beside the records."""
        return {}

    def metadata(self) -> dict[str, Any]:
        """Arguments of `tfds.core.DatasetInfo`, such as the citation."""
        return {}

    @property
    def MANUAL_DOWNLOAD_INSTRUCTIONS(self) -> str:
        """Instructions that TFDS shows for a missing download."""
        return "Put images/ and info_files/ into the manual folder."

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self, features=record_features(), disable_shuffling=True, **self.metadata()
        )

    # Instead of `_split_generators` and `_generate_examples`, which pass all records through TFDS's
    # shuffler: here each worker writes its shard directly, in order.
    def _download_and_prepare(
        self,
        dl_manager: tfds.download.DownloadManager,
        download_config: tfds.download.DownloadConfig,
    ) -> None:
        manifest = self.list_examples(dl_manager)
        self.validate_counts(manifest.splits)
        folder = Path(self.data_dir)
        templates = {split: self._filename_template(split) for split in manifest.splits}
        written = write_splits(
            manifest,
            folder,
            lambda split, i, n: templates[split].sharded_filepath(shard_index=i, num_shards=n).name,
            self.skip_corrupt,
            self.show_progress,
            download_config.beam_runner,
            download_config.beam_options,
        )
        self.validate_counts({split: result.manifest for split, result in written.items()})
        for split, result in written.items():
            records.write_labels(folder, split, result.manifest.labels, result.manifest.paths)
        records.write_class_names(folder, manifest.class_names)
        (folder / OPTIONS_FILE).write_text(json.dumps(self.options))
        self.info.set_splits(
            tfds.core.SplitDict(
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=result.shard_lengths,
                    num_bytes=result.num_bytes,
                    filename_template=templates[split],
                )
                for split, result in written.items()
            )
        )

    def _filename_template(self, split: str) -> tfds.core.ShardedFileTemplate:
        return tfds.core.ShardedFileTemplate(
            data_dir=self.data_dir,
            dataset_name=self.name,
            split=split,
            filetype_suffix="array_record",
        )

    def _log_download_bytes(self) -> None:
        """Silences TFDS's download messages; progress is reported by `prepare`."""

    def _log_download_done(self) -> None:
        """Silences TFDS's download messages; progress is reported by `prepare`."""

    # TFDS has no tf.data over ArrayRecord, so `tfds.load` would refuse.
    def _as_dataset(
        self,
        split: Any,
        decoders: Any = None,
        read_config: Any = None,
        shuffle_files: bool = False,
    ) -> "tf.data.Dataset":
        import tensorflow as tf  # only to read: see image_files.py

        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        source = self.as_data_source(split, deserialize_method=raw)

        def read(indices: np.ndarray) -> np.ndarray:
            return np.array(source.__getitems__(indices.tolist()), object)

        indices = tf.data.Dataset.range(len(source)).batch(64)
        encoded = indices.map(lambda batch: tf.numpy_function(read, [batch], tf.string)).unbatch()
        encoded = encoded.map(lambda record: tf.ensure_shape(record, []))
        return encoded.map(partial(record_features().deserialize_example, decoders=decoders))
