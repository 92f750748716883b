"""UnED's layout, `info_files/<domain>/<split>.json` and `images/<path>`, and UnED itself.

`uned/cars` to `uned/rp2k` are the Universal Embedding Dataset as published (arXiv 2309.01858); any
other dataset in the same layout is prepared by `UnedLayoutBuilder`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from universal_embedding.datasets import domains
from universal_embedding.datasets.builder import ImageRetrievalBuilder
from universal_embedding.datasets.examples import SPLITS, DatasetManifest, Labels, SplitManifest
from universal_embedding.errors import UserError

INFO_DIR = "info_files"
IMAGE_DIR = "images"
CLASS_NAMES_FILE = "class_names.json"


class UnedLayoutBuilder(ImageRetrievalBuilder, skip_registration=True):
    """One config for each domain of the manual folder; there are no published counts."""

    def list_examples(self, dl_manager: tfds.download.DownloadManager) -> DatasetManifest:
        """Reads `info_files/<config>` of the manual folder."""
        root = Path(dl_manager.manual_dir)
        return read_info_domain(root / INFO_DIR, self.builder_config.name, root / IMAGE_DIR)


def make_uned_layout_builder(dataset: str, domain: str, **kwargs: Any) -> UnedLayoutBuilder:
    """Makes the builder of one domain of a dataset in UnED's layout."""

    class Builder(UnedLayoutBuilder, skip_registration=True):
        name = dataset
        BUILDER_CONFIGS: ClassVar = [tfds.core.BuilderConfig(name=domain, description=domain)]

    return Builder(config=domain, **kwargs)


class Uned(ImageRetrievalBuilder):
    """One config for each domain. Importing this module lets `tfds.load("uned/cars")` find it.

    `info_files/` of the manual folder is used or, if it is not there, downloaded and checked;
    `images/` must be in the manual folder.

    Attributes:
        allow_partial: Accept other numbers of images and classes than the published ones.
    """

    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name=key, description=domain.source)
        for key, domain in domains.UNED.items()
    ]
    url_infos: ClassVar[Mapping[str, tfds.download.checksums.UrlInfo]] = {
        domains.INFO_FILES.url: tfds.download.checksums.UrlInfo(
            size=domains.INFO_FILES.size,
            checksum=domains.INFO_FILES.sha256,
            filename=domains.INFO_FILES.url.split("/")[-1],
        )
    }

    def __init__(self, *, allow_partial: bool = False, **kwargs: Any) -> None:
        self.allow_partial = allow_partial
        super().__init__(**kwargs)

    @property
    def domain(self) -> domains.Domain:
        """The registry's entry of this config."""
        return domains.UNED[self.builder_config.name]

    @property
    def MANUAL_DOWNLOAD_INSTRUCTIONS(self) -> str:
        """Instructions to get this domain's images."""
        return self.domain.instructions

    def list_examples(self, dl_manager: tfds.download.DownloadManager) -> DatasetManifest:
        """Reads the authors' splits of this domain."""
        root = Path(dl_manager.manual_dir)
        missing = [folder for folder in self.domain.folders if not (root / folder).is_dir()]
        if missing:
            raise UserError(
                f"the images of uned/{self.domain.key} are not in {root} ({', '.join(missing)} "
                f"missing). {self.domain.instructions}"
            )
        info_dir = root / INFO_DIR
        if not info_dir.is_dir():
            info_dir = _download_info_files(dl_manager) / INFO_DIR
        return read_info_domain(info_dir, self.domain.key, root / IMAGE_DIR)

    def validate_counts(self, splits: Mapping[str, SplitManifest]) -> None:
        """Compares the splits with the registry, unless `allow_partial`."""
        if not self.allow_partial:
            check_published_counts(f"uned/{self.domain.key}", splits, self.domain)

    def metadata(self) -> dict[str, Any]:
        """Citation and license."""
        return {
            "description": self.domain.source,
            "citation": f"{domains.UNED_CITATION} {self.domain.citation}",
            "homepage": self.domain.homepage,
            "license": self.domain.license,
        }


def check_published_counts(
    name: str, splits: Mapping[str, SplitManifest], domain: domains.Domain
) -> None:
    """Compares the numbers of images and classes of each split with the published ones.

    Raises:
        UserError: They differ; the message has both numbers of every difference.
    """
    num_images = {split: len(splits.get(split, ())) for split in [*domain.num_images, *splits]}
    num_classes = {
        split: len(np.unique(splits[split].labels.values)) if split in splits else 0
        for split in domain.num_classes
    }
    differences = [
        *_list_differences(num_images, domain.num_images, "images"),
        *_list_differences(num_classes, domain.num_classes, "classes"),
    ]
    if differences:
        raise UserError(
            f"{name} differs from the published dataset: {'; '.join(differences)}. "
            "Complete the files, or accept this with --allow_partial"
        )


def list_info_domains(info_dir: Path) -> list[str]:
    """The domains that an `info_files` folder describes, sorted.

    Raises:
        UserError: There is no such folder, or it is empty.
    """
    if not info_dir.is_dir():
        raise UserError(f"{info_dir} is not a directory; it needs <domain>/<split>.json files")
    keys = sorted(folder.name for folder in info_dir.iterdir() if folder.is_dir())
    if not keys:
        raise UserError(f"{info_dir} has no domains; it needs <domain>/<split>.json files")
    return keys


def read_info_domain(info_dir: Path, domain: str, image_dir: Path) -> DatasetManifest:
    """Reads all splits of one domain.

    Raises:
        UserError: A folder is missing, or a file does not follow the layout.
    """
    folder = info_dir / domain
    if not folder.is_dir():
        raise UserError(
            f"{folder} is not a directory; {info_dir} describes "
            f"{', '.join(list_info_domains(info_dir))}"
        )
    if not image_dir.is_dir():
        raise UserError(f"the image folder {image_dir} is missing; put the images there")
    files = {split: folder / f"{split}.json" for split in SPLITS}
    splits = {split: read_info_file(file) for split, file in files.items() if file.is_file()}
    if "train" not in splits and "test" not in splits:
        raise UserError(f"{folder} has neither train.json nor test.json; there are no images")
    class_names = _read_class_names(folder / CLASS_NAMES_FILE)
    return DatasetManifest(image_dir, splits, class_names, str(folder))


def read_info_file(file: Path) -> SplitManifest:
    """Reads one info file: a list of `{"path": str, "class_id": int or [int, ...]}`.

    Raises:
        UserError: The file is not such a list.
    """
    rows = _read_json(file)
    if not isinstance(rows, list):
        raise UserError(f"{file} contains a {type(rows).__name__}, not a list of images")
    if not rows:
        raise UserError(f"{file} is empty; a split needs at least one image, else delete the file")
    paths, labels = [], []
    for i, row in enumerate(rows):
        path, label = _read_info_entry(row, f"entry {i} of {file}")
        paths.append(path)
        labels.append(label)
    return SplitManifest(paths, Labels.from_rows(labels))


def _read_info_entry(row: Any, name: str) -> tuple[str, int | list[int]]:
    if not isinstance(row, dict) or not {"path", "class_id"} <= row.keys():
        raise UserError(f'{name} is {row!r}; expected {{"path": ..., "class_id": ...}}')
    path, label = row["path"], row["class_id"]
    if not isinstance(path, str) or not path or path.startswith("/") or ".." in Path(path).parts:
        raise UserError(f"{name} has the path {path!r}; expected a path inside the image folder")
    ids = label if isinstance(label, list) else [label]
    if not ids or not all(type(value) is int for value in ids):
        raise UserError(f"{name} has the class_id {label!r}; expected an integer or a list of them")
    return path, label


def _read_class_names(file: Path) -> dict[int, str]:
    if not file.is_file():
        return {}
    names = _read_json(file)
    if isinstance(names, list):
        return dict(enumerate(map(str, names)))
    if isinstance(names, dict) and all(key.lstrip("-").isdigit() for key in names):
        return {int(key): str(name) for key, name in names.items()}
    raise UserError(f"{file} is neither a list of class names nor names by class id; correct it")


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 text ({error}); download it again") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{file} is not valid JSON ({error}); download it again") from None


def _list_differences(
    counts: Mapping[str, int], published: Mapping[str, int], unit: str
) -> list[str]:
    return [
        f"{split} has {count:,} {unit}, published {published.get(split, 0):,}"
        for split, count in counts.items()
        if count != published.get(split, 0)
    ]


def _download_info_files(dl_manager: tfds.download.DownloadManager) -> Path:
    archive = domains.INFO_FILES
    try:
        return Path(dl_manager.download_and_extract(archive.url))
    except Exception as error:  # whatever the network, the server or the checksum raises
        reason = " ".join(str(error).split())
        raise UserError(
            f"cannot download {archive.url} ({archive.size:,} bytes): {reason[:300]}; download it "
            f"by other means and unpack it to {INFO_DIR}/ in --manual_dir"
        ) from error
