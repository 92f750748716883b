"""From a folder of pictures to its index, embedding only what is new or changed."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from universal_embedding.errors import UserError
from universal_embedding.gallery.index import Index
from universal_embedding.gallery.model import Model, embed
from universal_embedding.gallery.pictures import list_pictures, read

SAVE_SECONDS = 60
READERS = 4


@dataclass
class Changes:
    """What an update did, in numbers of pictures."""

    added: int = 0
    changed: int = 0
    removed: int = 0
    kept: int = 0
    other_files: int = 0


def update(
    directory: Path, gallery: Path, model: Model, origin: Path, batch_size: int = 32
) -> tuple[Index, Changes]:
    """Brings the index at `directory` up to date with the folder `gallery`, and saves it.

    Pictures whose size and time of change are as before keep their embedding. The work is saved
    every minute, so that an interrupted run goes on where it was.

    Args:
        directory: The index, which may not exist yet.
        gallery: The folder of pictures.
        model: Embeds them.
        origin: Where the model was read from.
        batch_size: Pictures embedded together.

    Raises:
        UserError: The index is of another model, something else is at `directory`, the folder
            holds no pictures, or none of them can be embedded.
    """
    old = _open_old(directory, gallery, model, origin)
    names, others = list_pictures(gallery)
    if not names:
        raise UserError(f"--gallery={gallery} holds no pictures ({others} other files)")
    known = dict(zip(old.names, old.stamps, strict=True))
    rows = dict(zip(old.names, old.embeddings, strict=True))
    stamps = {name: _stamp(gallery / name) for name in names}
    keep = {name: rows[name] for name in names if name in known and known[name] == stamps[name]}
    todo = [name for name in names if name not in keep]
    broken: dict[str, str] = {}

    def index() -> Index:
        done = [name for name in names if name in keep]
        embeddings = np.stack([keep[name] for name in done])
        done_stamps = [stamps[name] for name in done]
        return Index(gallery, origin, model.fingerprint, done, done_stamps, embeddings, broken)

    changes = Changes(kept=len(keep), removed=len(known.keys() - stamps.keys()), other_files=others)
    saved = time.monotonic()
    with ThreadPoolExecutor(READERS) as pool, tqdm(total=len(todo), unit="picture") as bar:
        for start in range(0, len(todo), batch_size):
            batch = todo[start : start + batch_size]
            found = dict(zip(batch, pool.map(lambda n: _try(gallery / n), batch), strict=True))
            broken |= {n: str(e) for n, e in found.items() if isinstance(e, UserError)}
            good = [name for name in batch if name not in broken]
            if good:
                for name, row in zip(good, embed(model, [found[n] for n in good]), strict=True):
                    if np.isfinite(row).all():
                        keep[name] = row
                        changes.added += name not in known
                        changes.changed += name in known
                    else:
                        broken[name] = "the model gives no finite embedding for it"
            bar.update(len(batch))
            if time.monotonic() - saved > SAVE_SECONDS and keep:
                index().save(directory)
                saved = time.monotonic()
    if not keep:
        raise UserError(f"none of the {len(names)} pictures of {gallery} can be read: {broken}")
    done = index()
    done.save(directory)
    return done, changes


def _open_old(directory: Path, gallery: Path, model: Model, origin: Path) -> Index:
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return Index(gallery, origin, model.fingerprint)
    old = Index.open(directory)
    old.check_model(model.fingerprint, origin)
    return old


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return 0, 0  # gone since it was listed, or a dangling link: reading it says so
    return status.st_size, status.st_mtime_ns


def _try(path: Path) -> np.ndarray | UserError:
    try:
        return read(path)
    except UserError as error:
        return error
