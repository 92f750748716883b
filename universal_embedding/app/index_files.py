"""The content of an index, and its files: names, embeddings, and the model that made them."""

import dataclasses
import json
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from universal_embedding.errors import UserError
from universal_embedding.files import atomic_directory

if TYPE_CHECKING:
    from universal_embedding.app.image_index import ImageEncoder

FORMAT = 2
META, IMAGES, EMBEDDINGS = "index.json", "images.json", "embeddings.npy"
Stamp = tuple[int, int]


@dataclass(frozen=True)
class IndexFiles:
    """The images of one folder as one model embeds them.

    Attributes:
        images_dir: The folder.
        model: Where the model was opened from.
        fingerprint: sha256 that identifies the model.
        names: N names relative to `images_dir`, sorted.
        stamps: N pairs (size in bytes, modification time in nanoseconds); an image with another
            pair has changed.
        embeddings: `[N, D]` float32, unit rows.
        corrupt: Reasons by name, of files that could not be embedded.
    """

    images_dir: Path
    model: str
    fingerprint: str
    names: list[str] = field(default_factory=list)
    stamps: list[Stamp] = field(default_factory=list)
    embeddings: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    corrupt: dict[str, str] = field(default_factory=dict)

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

    def without(self, names: Collection[str]) -> "IndexFiles":
        """The index without some images."""
        keep = [i for i, name in enumerate(self.names) if name not in names]
        return dataclasses.replace(
            self,
            names=[self.names[i] for i in keep],
            stamps=[self.stamps[i] for i in keep],
            embeddings=self.embeddings[keep],
        )

    def write(self, directory: Path) -> None:
        """Writes the index; an older one at `directory` is replaced only when all is written."""
        meta = {
            "format": FORMAT,
            "images_dir": str(self.images_dir),
            "model": self.model,
            "fingerprint": self.fingerprint,
            "num_images": len(self.names),
            "embedding_dim": self.embeddings.shape[1],
            "corrupt": self.corrupt,
        }
        images = [[n, *s] for n, s in zip(self.names, self.stamps, strict=True)]
        with atomic_directory(directory) as folder:
            (folder / META).write_text(json.dumps(meta, indent=1, ensure_ascii=False), "utf-8")
            (folder / IMAGES).write_text(json.dumps(images, ensure_ascii=False), "utf-8")
            np.save(folder / EMBEDDINGS, self.embeddings)

    @classmethod
    def read(cls, directory: Path) -> "IndexFiles":
        """Reads an index.

        Raises:
            UserError: There is none at `directory`, or it is damaged or of another format.
        """
        try:
            meta = json.loads((directory / META).read_text("utf-8"))
            if meta["format"] != FORMAT:
                raise ValueError(f"format {meta['format']}, expected {FORMAT}")
            images = json.loads((directory / IMAGES).read_text("utf-8"))
            embeddings = np.load(directory / EMBEDDINGS, allow_pickle=False)
            if embeddings.shape != (len(images), meta["embedding_dim"]):
                raise ValueError(f"embeddings {embeddings.shape} of {len(images)} images")
            return cls(
                Path(meta["images_dir"]),
                meta["model"],
                meta["fingerprint"],
                [name for name, _, _ in images],
                [(size, time) for _, size, time in images],
                embeddings,
                meta["corrupt"],
            )
        except FileNotFoundError:
            raise UserError(
                f"{directory} holds no index; make one with `universal-embedding index --model=... "
                f"--images=... --output={directory}`"
            ) from None
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise UserError(
                f"the index {directory} is damaged or of another version ({error}); remove it and "
                "make it again with `universal-embedding index`"
            ) from None


def find_category(name: str) -> str:
    """The first folder of an image's name; empty for an image outside any."""
    return name.split("/")[0] if "/" in name else ""
