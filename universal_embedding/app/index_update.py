"""Brings an index up to date with its folder, embedding only what is new or changed."""

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from universal_embedding.app.image_index import ImageIndex
from universal_embedding.app.index_files import META, IndexFiles, Stamp, is_unfinished
from universal_embedding.app.searchable import ImageEncoder
from universal_embedding.datasets.image_limits import CorruptImageError
from universal_embedding.datasets.image_listing import list_image_files
from universal_embedding.datasets.image_prefetch import MAX_BYTES, decode_ahead
from universal_embedding.datasets.lock import hold_lock
from universal_embedding.errors import UserError

SAVE_SECONDS = 60
LOCK_FILE = ".lock"


@dataclass
class IndexUpdate:
    """Counts of images in an update, and the names of those that were not left as they were."""

    added: int = 0
    changed: int = 0
    removed: int = 0
    unchanged: int = 0
    other_files: int = 0
    changed_names: set[str] = field(default_factory=set, repr=False)


def update_index(
    directory: Path, images_dir: Path, model: ImageEncoder, batch_size: int = 32
) -> tuple[ImageIndex, IndexUpdate]:
    """Makes the index at `directory`, or brings it up to date with `images_dir`, and saves it.

    The work is saved every minute, so that an interrupted call resumes where it was.

    Args:
        directory: The index, which may not exist yet.
        images_dir: The folder of the images.
        model: Embeds them.
        batch_size: Images per batch.

    Raises:
        UserError: The index was made by another model, something else is at `directory`, the
            folder holds no images, or none of them can be read.
    """
    directory, images_dir = (Path(os.path.realpath(path)) for path in (directory, images_dir))
    if directory == images_dir or directory.is_relative_to(images_dir):
        raise UserError(
            f"{directory} is inside of {images_dir}, the folder of the images, where its files "
            "would be listed too; name another --output"
        )
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory} is a file; name a directory for the index")
    directory.mkdir(parents=True, exist_ok=True)
    with hold_lock(directory / LOCK_FILE, directory):
        return _update_locked(directory, images_dir, model, batch_size)


def _update_locked(
    directory: Path, images_dir: Path, model: ImageEncoder, batch_size: int
) -> tuple[ImageIndex, IndexUpdate]:
    files = IndexFiles.empty(images_dir, model)
    names = {path.name for path in directory.iterdir()} - {LOCK_FILE}
    if META in names or not all(map(is_unfinished, names)):
        older = IndexFiles.read(directory)
        older.check_model(model.fingerprint, model.name)
        _check_dimension(older, model, directory)
        files = dataclasses.replace(
            files,
            names=older.names,
            stamps=older.stamps,
            embeddings=older.embeddings,
            search_dir=older.search_dir,
        )
    index = ImageIndex(files, model)
    update = index.update(batch_size, save_to=directory)
    index.save(directory)
    return index, update


def _check_dimension(files: IndexFiles, model: ImageEncoder, directory: Path) -> None:
    dims = files.embeddings.shape[1], getattr(model, "embedding_dim", files.embeddings.shape[1])
    if len(files.names) and dims[0] != dims[1]:
        raise UserError(
            f"{directory} has embeddings of {dims[0]} dimensions, {model.name} gives {dims[1]}: "
            f"give --dimension={dims[0]}, or name another --output"
        )


def update_files(
    files: IndexFiles, model: ImageEncoder, batch_size: int = 32, save_to: Path | None = None
) -> tuple[IndexFiles, IndexUpdate]:
    """Embeds what is new or changed in the folder and drops what is gone.

    Raises:
        UserError: The folder holds no images, or none that can be read.
    """
    listing = list_image_files(files.images_dir)
    names = listing.names
    if not names:
        raise UserError(
            f"{files.images_dir} holds no images ({listing.num_other_files} other files"
            f"{', '.join(['', *map(': '.join, listing.unusable.items())])})"
        )
    stamps = {name: _read_stamp(files.images_dir / name) for name in names}
    known = dict(zip(files.names, files.stamps, strict=True))
    unlisted = tuple(name for name in listing.unusable if name.endswith("/"))
    # Folders that cannot be listed now, such as those of a disk that is away, keep their images.
    stamps |= {name: stamp for name, stamp in known.items() if name.startswith(unlisted)}
    outdated = {name for name, stamp in known.items() if stamps.get(name) != stamp}
    todo = [name for name in names if name not in known or name in outdated]
    current, corrupt = embed_named(
        dataclasses.replace(files.without(outdated), corrupt={}), model, todo, batch_size, save_to
    )
    current = dataclasses.replace(current, corrupt=listing.unusable | corrupt)
    if not current.names:
        raise UserError(
            f"none of the {len(names)} images of {files.images_dir} can be read: {corrupt}"
        )
    embedded = set(todo) - corrupt.keys()
    update = IndexUpdate(
        added=len(embedded - known.keys()),
        changed=len(embedded & known.keys()),
        removed=len(known.keys() - stamps.keys()),
        unchanged=len(known.keys() - outdated),
        other_files=listing.num_other_files,
        changed_names=outdated.union(todo),
    )
    return current, update


def embed_named(
    files: IndexFiles,
    model: ImageEncoder,
    names: Sequence[str],
    batch_size: int,
    save_to: Path | None = None,
) -> tuple[IndexFiles, dict[str, str]]:
    """Embeds images by name and puts them into the index.

    Returns:
        The index, and reasons by name of the images that could not be embedded.
    """
    corrupt: dict[str, str] = {}
    rows: dict[str, np.ndarray] = {}
    stamps: dict[str, Stamp] = {}
    batch: dict[str, np.ndarray] = {}

    def list_paths() -> Iterator[Path]:
        for name in names:  # before it is read: a later change is another stamp
            stamps[name] = _read_stamp(files.images_dir / name)
            yield files.images_dir / name

    def embed_batch() -> None:
        embeddings = model.encode(
            list(batch.values()), batch_size=batch_size, show_progress_bar=False
        )
        for name, row in zip(batch, embeddings, strict=True):
            if np.isfinite(row).all():
                rows[name] = row
            else:
                corrupt[name] = "the model gives no finite embedding for it"
        batch.clear()

    saved = time.monotonic()
    with contextlib.closing(decode_ahead(list_paths())) as images:
        bar = tqdm(images, total=len(names), unit="image", disable=None)
        for name, image in zip(names, bar, strict=True):
            if isinstance(image, CorruptImageError):
                corrupt[name] = str(image)
            else:
                batch[name] = image
            if len(batch) == batch_size or sum(i.nbytes for i in batch.values()) > MAX_BYTES:
                embed_batch()
                if save_to and time.monotonic() - saved > SAVE_SECONDS:
                    files.with_rows(rows, stamps).write(save_to)
                    saved = time.monotonic()
    if batch:
        embed_batch()
    return files.with_rows(rows, stamps), corrupt


def _read_stamp(path: Path) -> Stamp:
    try:
        status = path.stat()
    except OSError:
        return 0, 0, 0  # gone since it was listed, or a dangling link: reading it fails
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns
