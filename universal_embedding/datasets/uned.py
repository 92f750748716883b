"""`uned/cars` to `uned/rp2k`: the Universal Embedding Dataset (arXiv 2309.01858), as published."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from universal_embedding.datasets import info_files
from universal_embedding.datasets.builder import PictureBuilder
from universal_embedding.datasets.collection import Collection, Entries
from universal_embedding.datasets.counts import check_counts
from universal_embedding.datasets.domains import INFO_FILES, UNED, UNED_CITATION, Domain
from universal_embedding.errors import UserError


class Uned(PictureBuilder):
    """One config for each domain. Importing this module lets `tfds.load("uned/cars")` find it.

    `info_files/` is taken from the manual folder or, if it is not there, downloaded and checked;
    `images/` must be in the manual folder.

    Attributes:
        allow_partial: Accept other numbers of pictures and classes than the published ones.
    """

    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name=key, description=domain.source) for key, domain in UNED.items()
    ]
    url_infos: ClassVar[Mapping[str, tfds.download.checksums.UrlInfo]] = {
        INFO_FILES.url: tfds.download.checksums.UrlInfo(
            size=INFO_FILES.size, checksum=INFO_FILES.sha256, filename=INFO_FILES.url.split("/")[-1]
        )
    }

    def __init__(self, *, allow_partial: bool = False, **kwargs: Any) -> None:
        self.allow_partial = allow_partial
        super().__init__(**kwargs)

    @property
    def domain(self) -> Domain:
        """The registry's entry of this config."""
        return UNED[self.builder_config.name]

    @property
    def MANUAL_DOWNLOAD_INSTRUCTIONS(self) -> str:
        """How to get this domain's pictures."""
        return self.domain.instructions

    def collect(self, dl_manager: tfds.download.DownloadManager) -> Collection:
        """Reads the authors' splits of this domain."""
        root = Path(dl_manager.manual_dir)
        images = root / info_files.IMAGES
        missing = [folder for folder in self.domain.folders if not (root / folder).is_dir()]
        if missing:
            raise UserError(
                f"the pictures of uned/{self.domain.key} are not in {root} ({', '.join(missing)} "
                f"missing). {self.domain.instructions}"
            )
        info = root / info_files.INFO_FILES
        if not info.is_dir():
            info = _download(dl_manager) / info_files.INFO_FILES
        return info_files.read_domain(info, self.domain.key, images)

    def check(self, splits: Mapping[str, Entries]) -> None:
        """Compares with the registry."""
        if not self.allow_partial:
            check_counts(f"uned/{self.domain.key}", splits, self.domain)

    def describe(self) -> dict[str, Any]:
        """Citation and terms."""
        return {
            "description": self.domain.source,
            "citation": f"{UNED_CITATION} {self.domain.citation}",
            "homepage": self.domain.address,
            "license": self.domain.terms,
        }


def _download(dl_manager: tfds.download.DownloadManager) -> Path:
    try:
        return Path(dl_manager.download_and_extract(INFO_FILES.url))
    except Exception as error:  # whatever the network, the server or the checksum raises
        reason = " ".join(str(error).split())
        raise UserError(
            f"{INFO_FILES.url} ({INFO_FILES.size:,} bytes) could not be fetched: {reason[:300]}; "
            "fetch it by other means and unpack it to info_files/ in --manual_dir"
        ) from error
