"""UnED's layout, `info_files/<domain>/<split>.json` and `images/<path>`, and UnED itself.

`uned/cars` to `uned/rp2k` are the Universal Embedding Dataset as published (arXiv 2309.01858); any
other dataset in the same layout is prepared by `UnedLayoutBuilder`.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from universal_embedding.datasets import domains
from universal_embedding.datasets.builder import ImageRetrievalBuilder
from universal_embedding.datasets.examples import SPLITS, DatasetManifest, Labels, SplitManifest
from universal_embedding.errors import UserError
from universal_embedding.files import as_path, list_directory

INFO_DIR = "info_files"
IMAGE_DIR = "images"
CLASS_NAMES_FILE = "class_names.json"


class UnedLayoutBuilder(ImageRetrievalBuilder):
    """One domain of a manual folder in UnED's layout; there are no published counts."""

    def list_examples(self, manual_dir: epath.Path) -> DatasetManifest:
        """Reads `info_files/<domain>` of the manual folder."""
        return read_info_domain(manual_dir / INFO_DIR, self.domain, manual_dir / IMAGE_DIR)


class Uned(ImageRetrievalBuilder):
    """One of the eight domains.

    `info_files/` of the manual folder is used or, if it is not there, downloaded and checked;
    `images/` must be in the manual folder.

    Attributes:
        allow_partial: Accept other numbers of images and classes than the published ones.
    """

    def __init__(self, domain: str, *, allow_partial: bool = False, **kwargs: Any) -> None:
        super().__init__("uned", domain, **kwargs)
        self.allow_partial = allow_partial

    @property
    def entry(self) -> domains.Domain:
        """This domain in the registry."""
        return domains.UNED[self.domain]

    @property
    def instructions(self) -> str:
        """Instructions to get this domain's images."""
        return self.entry.instructions

    def list_examples(self, manual_dir: epath.Path) -> DatasetManifest:
        """Reads the authors' splits of this domain."""
        missing = [f for f in self.entry.folders if not (manual_dir / f).is_dir()]
        if missing:
            raise UserError(
                f"the images of uned/{self.domain} are not in {manual_dir} ({', '.join(missing)} "
                f"missing). {self.instructions}"
            )
        info_dir = manual_dir / INFO_DIR
        if not info_dir.is_dir():
            info_dir = _download_info_files(self.data_dir / "downloads") / INFO_DIR
        return read_info_domain(info_dir, self.domain, manual_dir / IMAGE_DIR)

    def validate_counts(self, splits: Mapping[str, SplitManifest]) -> None:
        """Compares the splits with the registry, unless `allow_partial`."""
        if not self.allow_partial:
            check_published_counts(f"uned/{self.domain}", splits, self.entry)

    @property
    def metadata(self) -> dict[str, Any]:
        """Citation and license."""
        return {
            "description": self.entry.source,
            "citation": f"{domains.UNED_CITATION} {self.entry.citation}",
            "homepage": self.entry.homepage,
            "license": self.entry.license,
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


def list_info_domains(info_dir: epath.Path) -> list[str]:
    """The domains that an `info_files` folder describes, sorted.

    Raises:
        UserError: There is no such folder, or it is empty.
    """
    if not info_dir.is_dir():
        raise UserError(f"{info_dir} is not a directory; it needs <domain>/<split>.json files")
    keys = [folder.name for folder in list_directory(info_dir) if folder.is_dir()]
    if not keys:
        raise UserError(f"{info_dir} has no domains; it needs <domain>/<split>.json files")
    return keys


def read_info_domain(info_dir: epath.Path, domain: str, image_dir: epath.Path) -> DatasetManifest:
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


def read_info_file(file: epath.Path) -> SplitManifest:
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
    if not isinstance(path, str) or not path or path.startswith("/") or ".." in path.split("/"):
        raise UserError(f"{name} has the path {path!r}; expected a path inside the image folder")
    ids = label if isinstance(label, list) else [label]
    if not ids or not all(type(value) is int and abs(value) < 2**63 for value in ids):
        shown = ascii(label)[:80]
        raise UserError(f"{name} has the class_id {shown}; expected an integer or a list of them")
    return path, label


def _read_class_names(file: epath.Path) -> dict[int, str]:
    if not file.is_file():
        return {}
    names = _read_json(file)
    if isinstance(names, list):
        return dict(enumerate(map(str, names)))
    if isinstance(names, dict) and all(re.fullmatch("-?[0-9]{1,19}", key) for key in names):
        return {int(key): str(name) for key, name in names.items()}
    raise UserError(f"{file} is neither a list of class names nor names by class id; correct it")


def _read_json(file: epath.Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 text ({error}); download it again") from None
    except (ValueError, RecursionError) as error:  # ValueError: also of a very long number
        raise UserError(f"{file} is not valid JSON ({error}); download it again") from None


def _list_differences(
    counts: Mapping[str, int], published: Mapping[str, int], unit: str
) -> list[str]:
    return [
        f"{split} has {count:,} {unit}, published {published.get(split, 0):,}"
        for split, count in counts.items()
        if count != published.get(split, 0)
    ]


def _download_info_files(download_dir: epath.Path) -> epath.Path:
    archive = domains.INFO_FILES
    info = tfds.download.checksums.UrlInfo(
        size=archive.size, checksum=archive.sha256, filename=archive.url.split("/")[-1]
    )
    try:
        manager = tfds.download.DownloadManager(
            download_dir=download_dir,
            url_infos={archive.url: info},
            dataset_name="uned",
            force_checksums_validation=True,
        )
        return as_path(manager.download_and_extract(archive.url))
    except Exception as error:  # whatever the network, the server or the checksum raises
        reason = " ".join(str(error).split())
        raise UserError(
            f"cannot download {archive.url} ({archive.size:,} bytes): {reason[:300]}; download it "
            f"by other means and unpack it to {INFO_DIR}/ in --manual_dir"
        ) from error
