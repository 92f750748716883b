"""A gallery's index: the embeddings of its pictures, in one directory bound to one model."""

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from universal_embedding.errors import UserError
from universal_embedding.gallery.pictures import category

FORMAT = 1
META, PICTURES, EMBEDDINGS = "index.json", "pictures.json", "embeddings.npy"


@dataclass
class Index:
    """The pictures of one folder as one model sees them.

    Attributes:
        gallery: The folder.
        model: Where the model was read from: a SavedModel's directory or a zip.
        fingerprint: sha256 of the model's files.
        names: N names relative to `gallery`, sorted.
        stamps: N pairs (size in bytes, time of change in nanoseconds); another pair is another
            picture.
        embeddings: `[N, D]` float32, unit rows.
        broken: Reasons by name, of files that could not be embedded.
    """

    gallery: Path
    model: Path
    fingerprint: str
    names: list[str] = field(default_factory=list)
    stamps: list[tuple[int, int]] = field(default_factory=list)
    embeddings: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    broken: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def categories(self) -> np.ndarray:
        """`[N]` str: the first folder of each picture's name."""
        return np.array([category(name) for name in self.names], dtype=str)

    def check_model(self, fingerprint: str, origin: Path) -> None:
        """Raises a UserError unless `fingerprint` is that of the index's own model."""
        if fingerprint != self.fingerprint:
            raise UserError(
                f"the model {origin} (sha256 {fingerprint[:12]}) did not make this index "
                f"(sha256 {self.fingerprint[:12]}, from {self.model}): give that model with "
                "--saved_model, or make a new index with `tools/search.py index`"
            )

    def save(self, directory: Path) -> None:
        """Writes the index; an older one at `directory` is replaced only when all is written."""
        new = directory.with_name(f"{directory.name}.new-{os.getpid()}")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        meta = {
            "format": FORMAT,
            "gallery": str(self.gallery.resolve()),
            "model": str(self.model.resolve()),
            "fingerprint": self.fingerprint,
            "pictures": len(self),
            "dimension": self.embeddings.shape[1],
            "broken": self.broken,
        }
        (new / META).write_text(json.dumps(meta, indent=1, ensure_ascii=False))
        pictures = [[n, *s] for n, s in zip(self.names, self.stamps, strict=True)]
        (new / PICTURES).write_text(json.dumps(pictures, ensure_ascii=False))
        np.save(new / EMBEDDINGS, self.embeddings)
        if directory.exists():
            old = directory.with_name(f"{directory.name}.old-{os.getpid()}")
            directory.rename(old)
            new.rename(directory)
            shutil.rmtree(old)
        else:
            new.rename(directory)

    @classmethod
    def open(cls, directory: Path) -> "Index":
        """Reads an index.

        Raises:
            UserError: There is none at `directory`, or it is damaged or of another format.
        """
        try:
            meta = json.loads((directory / META).read_text())
            if meta["format"] != FORMAT:
                raise ValueError(f"format {meta['format']}, not {FORMAT}")
            pictures = json.loads((directory / PICTURES).read_text())
            embeddings = np.load(directory / EMBEDDINGS, allow_pickle=False)
            if embeddings.shape != (len(pictures), meta["dimension"]):
                raise ValueError(f"embeddings {embeddings.shape} of {len(pictures)} pictures")
        except FileNotFoundError:
            raise UserError(
                f"{directory} holds no index: make one with `tools/search.py index "
                f"--saved_model=... --gallery=... --output={directory}`"
            ) from None
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise UserError(
                f"the index {directory} is damaged or of another version ({error}): remove it and "
                "make it again with `tools/search.py index`"
            ) from None
        return cls(
            Path(meta["gallery"]),
            Path(meta["model"]),
            meta["fingerprint"],
            [name for name, _, _ in pictures],
            [(size, time) for _, size, time in pictures],
            embeddings,
            meta["broken"],
        )
