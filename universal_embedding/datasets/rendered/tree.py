"""Writing rendered pictures to disk: a whole tree, or none."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import PIL

from universal_embedding.datasets.rendered.domains import DOMAINS, Domain
from universal_embedding.datasets.rendered.gallery import CATEGORIES, INSTANCES, VIEWS
from universal_embedding.datasets.rendered.jobs import Job, draw_all, picture_names, stream
from universal_embedding.datasets.rendered.names import names
from universal_embedding.errors import UserError

STAMP = "rendered.json"


def render_domains(
    output: Path, seed: int = 0, processes: int = 1, domains: Sequence[Domain] = DOMAINS
) -> int:
    """Writes the demo's domains in UnED's layout: `info_files/`, `images/`.

    Args:
        output: Folder to make; one that this function filled before is renewed when needed.
        seed: Of every class and picture.
        processes: How many draw at once; the pictures do not depend on it.
        domains: What to draw.

    Returns:
        The number of pictures drawn; 0 where the same ones were there already.

    Raises:
        UserError: If `output` holds something else.
    """

    def write(tree: Path) -> int:
        jobs = [job for domain in domains for job in _write_info(tree, domain, seed)]
        return draw_all(jobs, processes)

    return _whole(output, {"what": "domains", "seed": seed, "domains": repr(domains)}, write)


def render_gallery(output: Path, seed: int = 0, processes: int = 1) -> int:
    """Writes the gallery as `<category>/<name>/<number>.jpg`; as `render_domains` otherwise."""

    def write(tree: Path) -> int:
        jobs = []
        for category, thing in CATEGORIES.items():
            key = f"gallery {category}"
            for number, name in enumerate(names(stream(seed, key), INSTANCES)):
                jobs.append(Job(thing, tree / category / name, seed, key, number, VIEWS))
        return draw_all(jobs, processes)

    return _whole(output, {"what": "gallery", "seed": seed}, write)


def _write_info(tree: Path, domain: Domain, seed: int) -> list[Job]:
    """Writes a domain's split files, and gives the jobs that draw its pictures."""
    info = tree / "info_files" / domain.key
    info.mkdir(parents=True)
    class_names = names(stream(seed, domain.key), sum(domain.classes.values()))
    photos, catalogue = picture_names(domain.photos, domain.catalogue)
    jobs, number = [], 0
    for split, count in domain.classes.items():
        rows = {split: [], "index": []}
        for _ in range(count):
            folder = f"{domain.key}/{class_names[number]}"
            for name in photos + catalogue:
                into = "index" if split == "test" and name in catalogue else split
                rows[into].append({"path": f"{folder}/{name}", "class_id": number})
            place = (tree / "images" / folder, seed, domain.key, number)
            jobs.append(Job(domain.thing, *place, domain.photos, domain.catalogue))
            number += 1
        for name, found in rows.items():
            if found:
                (info / f"{name}.json").write_text(json.dumps(found, indent=0) + "\n")
    (info / "class_names.json").write_text(json.dumps(class_names, indent=0) + "\n")
    return jobs


def _whole(output: Path, settings: dict, write: Callable[[Path], int]) -> int:
    """Has `write` fill a folder beside `output`, which takes its place only when complete."""
    output = output.absolute()
    stamp = {**settings, "drawing": _fingerprint()}
    if _stamp_of(output) == stamp:
        return 0
    partial = output.with_name(f".{output.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{output} (from --output) cannot be made: {error}") from None
    count = write(partial)
    (partial / STAMP).write_text(json.dumps(stamp, indent=1) + "\n")
    if output.exists():
        shutil.rmtree(output)
    os.replace(partial, output)
    return count


def _stamp_of(output: Path) -> dict | None:
    """The stamp of a folder that was rendered before; None where nothing is yet."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return None
    try:
        return json.loads((output / STAMP).read_text())
    except (OSError, ValueError):
        raise UserError(
            f"{output} (from --output) holds something that this program did not render; "
            "give a new or empty folder"
        ) from None


def _fingerprint() -> str:
    """Changes with the code that draws, and with the libraries that it draws with."""
    digest = hashlib.sha256(f"numpy {np.__version__} pillow {PIL.__version__}".encode())
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
