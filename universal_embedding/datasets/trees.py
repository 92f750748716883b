"""Builders for any data set in UnED's layout: pictures and `info_files` under the manual folder."""

from typing import Any, ClassVar

import tensorflow_datasets as tfds

from universal_embedding.datasets import info_files
from universal_embedding.datasets.builder import PictureBuilder
from universal_embedding.datasets.collection import Collection


class TreeBuilder(PictureBuilder, skip_registration=True):
    """One config for each domain; no counts are published to compare with."""

    def collect(self, dl_manager: tfds.download.DownloadManager) -> Collection:
        """Reads `info_files/<config>` of the manual folder."""
        root = dl_manager.manual_dir
        return info_files.read_domain(
            root / info_files.INFO_FILES, self.builder_config.name, root / info_files.IMAGES
        )


def tree_builder(dataset: str, domain: str, **kwargs: Any) -> TreeBuilder:
    """A builder for domain `domain` of a data set that is named only now."""

    class Builder(TreeBuilder, skip_registration=True):
        name = dataset
        BUILDER_CONFIGS: ClassVar = [tfds.core.BuilderConfig(name=domain, description=domain)]

    return Builder(config=domain, **kwargs)
