"""The content of an index, and its files: names, embeddings, and the model that made them.

An index is a directory with `index.json`, which names the version of the other two files, and of
the directory of its search if that is approximate. A version is written beside the current one,
and then `index.json` is replaced: a reader, or a process that is killed at any moment, sees the old
version or the new one. Other files of the directory are kept.
"""

import bisect
import dataclasses
import itertools
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from universal_embedding.datasets.image_listing import name_problem
from universal_embedding.errors import UserError, printable
from universal_embedding.files import atomic_write

if TYPE_CHECKING:
    from universal_embedding.app.live_search import LiveSearch
    from universal_embedding.app.searchable import ImageEncoder

FORMAT = 3
META = "index.json"
Stamp = tuple[int, int, int]
_DATA_FILE = re.compile(r"(?:images|embeddings|search)-([0-9a-f]{16})(?:\.json|\.npy)?")
_NUM_ATTEMPTS = 20  # of a reader whose version is replaced while it reads


@dataclass(frozen=True)
class IndexFiles:
    """The images of one folder as one model embeds them.

    Attributes:
        images_dir: The folder.
        model: Where the model was opened from.
        fingerprint: sha256 that identifies the model.
        names: N names relative to `images_dir`, sorted.
        stamps: N triples (size in bytes, times of modification and of change in nanoseconds); an
            image with another triple has changed.
        embeddings: `[N, D]` float32, unit rows.
        corrupt: Reasons by name, of files that could not be embedded.
        search_dir: Where the search of these rows was saved, if it was.
    """

    images_dir: Path
    model: str
    fingerprint: str
    names: list[str] = field(default_factory=list)
    stamps: list[Stamp] = field(default_factory=list)
    embeddings: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    corrupt: dict[str, str] = field(default_factory=dict)
    search_dir: Path | None = None

    @classmethod
    def empty(cls, images_dir: Path, model: "ImageEncoder") -> "IndexFiles":
        """An index without images yet."""
        path = Path(model.name)
        name = str(path.resolve()) if path.exists() else model.name
        return cls(images_dir.resolve(), name, model.fingerprint)

    def check_model(self, fingerprint: str, name: str) -> None:
        """Raises a UserError unless `fingerprint` is that of the index's own model."""
        if fingerprint != self.fingerprint:
            raise UserError(
                f"the model {name} (sha256 {fingerprint[:12]}) did not make this index (sha256 "
                f"{self.fingerprint[:12]}, from {self.model}): give that model with --model, or "
                "make a new index with `universal-embedding index`"
            )

    def relative_name(self, path: str | Path) -> str:
        """The name of a file in the index.

        Raises:
            UserError: The path is outside the folder of the images.
        """
        resolved = (self.images_dir / path).resolve()
        if not resolved.is_relative_to(self.images_dir):
            resolved = Path(path).resolve()
        if not resolved.is_relative_to(self.images_dir):
            raise UserError(f"{path} is outside {self.images_dir}, the folder of the index")
        return resolved.relative_to(self.images_dir).as_posix()

    def find(self, names: Collection[str]) -> np.ndarray:
        """Marks the images with one of these names: `[N]` bool."""
        is_found = np.zeros(len(self.names), bool)
        for name in names:
            place = bisect.bisect_left(self.names, name)
            if place < len(self.names) and self.names[place] == name:
                is_found[place] = True
        return is_found

    def without(self, names: Collection[str]) -> "IndexFiles":
        """The index without some images."""
        is_kept = ~self.find(names)
        if is_kept.all():
            return self
        return dataclasses.replace(
            self,
            names=list(itertools.compress(self.names, is_kept.tolist())),
            stamps=list(itertools.compress(self.stamps, is_kept.tolist())),
            embeddings=self.embeddings[is_kept],
        )

    def with_rows(
        self, rows: Mapping[str, np.ndarray], stamps: Mapping[str, Stamp]
    ) -> "IndexFiles":
        """The index with the embeddings of some images added, or replaced."""
        if not rows:
            return self
        kept = self.without(rows)
        added = sorted(rows)
        places = [bisect.bisect_left(kept.names, name) for name in added]
        new = np.stack([rows[name] for name in added])
        return dataclasses.replace(
            kept,
            names=_insert(kept.names, places, added),
            stamps=_insert(kept.stamps, places, [stamps[name] for name in added]),
            embeddings=np.insert(kept.embeddings, places, new, 0) if kept.names else new,
        )

    def write(self, directory: Path, search: "LiveSearch | None" = None) -> None:
        """Writes the index; an older one at `directory` is replaced only when all is written.

        Args:
            directory: Where to write it.
            search: The search of its rows, if it is to be read again rather than built.
        """
        version = uuid.uuid4().hex[:16]
        meta = {
            "format": FORMAT,
            "version": version,
            "images_dir": str(self.images_dir),
            "model": self.model,
            "fingerprint": self.fingerprint,
            "num_images": len(self.names),
            "embedding_dim": self.embeddings.shape[1],
            "corrupt": self.corrupt,
        }
        images = [[n, *s] for n, s in zip(self.names, self.stamps, strict=True)]
        with atomic_write(directory / f"images-{version}.json") as file:
            json.dump(images, file, ensure_ascii=False)
        with atomic_write(directory / f"embeddings-{version}.npy", "wb") as file:
            np.save(file, self.embeddings)
        if search is not None:
            search.save(directory / f"search-{version}")
        with atomic_write(directory / META) as file:
            json.dump(meta, file, indent=1, ensure_ascii=False)
        for name in os.listdir(directory):
            match = _DATA_FILE.fullmatch(name)
            if match and match[1] != version:
                remove_tree(directory / name)

    @classmethod
    def read(cls, directory: Path) -> "IndexFiles":
        """Reads an index.

        Raises:
            UserError: There is none at `directory`, or it is damaged or of another format.
        """
        for attempt in range(_NUM_ATTEMPTS):
            try:
                return cls._read_version(directory)
            except FileNotFoundError as error:
                if error.filename is None or Path(error.filename).name == META:
                    raise UserError(
                        f"{directory} holds no index; make one with `universal-embedding index "
                        f"--model=... --images=... --output={directory}`"
                    ) from None
                reason = f"{Path(error.filename).name} is missing"
                time.sleep(0.01 * attempt)  # replaced since index.json was read
            except UserError:
                raise
            except Exception as error:  # damaged files cause errors of every kind
                reason = printable(str(error) or type(error).__name__)
                break
        raise UserError(
            f"the index {directory} is damaged or of another version ({reason}); remove it and "
            "make it again with `universal-embedding index`"
        )

    @classmethod
    def _read_version(cls, directory: Path) -> "IndexFiles":
        meta = json.loads((directory / META).read_text("utf-8"))
        if "kind" in meta:
            raise UserError(
                f"{directory} is an index of {meta['kind']}: read it by VectorIndex.load"
            )
        if meta["format"] != FORMAT:
            raise ValueError(f"format {meta['format']}, expected {FORMAT}")
        version = meta["version"]
        if not re.fullmatch("[0-9a-f]{16}", version):
            raise ValueError("its version is not one")
        images = json.loads((directory / f"images-{version}.json").read_text("utf-8"))
        embeddings = np.load(directory / f"embeddings-{version}.npy", allow_pickle=False)
        if embeddings.shape != (len(images), meta["embedding_dim"]):
            raise ValueError(f"embeddings {embeddings.shape} of {len(images)} images")
        names = [name for name, *_ in images]
        for name in names:
            if name.startswith("/") or ".." in name.split("/") or name_problem(name):
                raise ValueError(f"the name {name!r} leads out of the folder of the images")
        corrupt = {str(name): str(reason) for name, reason in meta["corrupt"].items()}
        search = directory / f"search-{version}"
        return cls(
            Path(meta["images_dir"]),
            str(meta["model"]),
            str(meta["fingerprint"]),
            names,
            [(int(size), int(mtime), int(ctime)) for _, size, mtime, ctime in images],
            embeddings.astype(np.float32, copy=False),
            corrupt,
            search if search.is_dir() else None,
        )


def remove_tree(path: Path) -> None:
    """Removes a file, or a directory with its content; it may be gone."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def is_unfinished(name: str) -> bool:
    """Whether a process that was killed while it wrote its first version may have left the file."""
    return bool(_DATA_FILE.fullmatch(name) or re.fullmatch(r"\..+\.partial", name))


def find_category(name: str) -> str:
    """The first folder of an image's name; empty for an image outside any."""
    return name.split("/")[0] if "/" in name else ""


def _insert(items: list[Any], places: Sequence[int], new: Sequence[Any]) -> list[Any]:
    """A list with `new[i]` before the item that was at `places[i]`; `places` ascend."""
    result, start = [], 0
    for place, item in zip(places, new, strict=True):
        result += items[start:place]
        result.append(item)
        start = place
    return result + items[start:]


def open_model(path: str | Path, files: IndexFiles) -> "ImageEncoder":
    """Opens the model of an index; another one is refused before it is loaded, if possible."""
    from universal_embedding.export.embedder import Embedder
    from universal_embedding.export.pretrained import read_fingerprint

    fingerprint = read_fingerprint(path)
    if fingerprint is not None:
        files.check_model(fingerprint, str(path))
    model = Embedder.from_pretrained(path)
    dim = files.embeddings.shape[1]
    return model.with_dimension(dim) if 0 < dim < model.embedding_dim else model
