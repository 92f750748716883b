"""Renders the demo's domains and its gallery to disk."""

import functools
import hashlib
import json
import multiprocessing
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
from tqdm import tqdm

from examples.demo_data.backgrounds import INDOORS, OUTDOORS
from examples.demo_data.goods import design_garment, design_package, design_painting, design_vessel
from examples.demo_data.nature import design_dish, design_dog, design_leaf
from examples.demo_data.outdoors import design_car, design_tower
from examples.demo_data.scene import Subject, photograph
from universal_embedding.errors import UserError
from universal_embedding.files import atomic_directory

CAR = Subject(design_car, (128, 96), (0.1, 0.45, 0.12), (0.97, 1.25), OUTDOORS)
DISH = Subject(design_dish, (128, 112), (np.pi, 0.25, 0.4), (0.85, 1.08), INDOORS)
DOG = Subject(design_dog, (128, 112), (0.08, 0.45, 0.1), (0.75, 1.05), OUTDOORS)
GARMENT = Subject(design_garment, (112, 128), (0.3, 0.35, 0.2), (0.85, 1.1), INDOORS)
LEAF = Subject(design_leaf, (112, 112), (0.8, 0.4, 0.4), (0.9, 1.2), INDOORS)
PACKAGE = Subject(design_package, (112, 128), (0.25, 0.1, 0.1), (0.85, 1.12), INDOORS)
PAINTING = Subject(design_painting, (120, 120), (0.15, 0.6, 0.3), (0.8, 1.05), INDOORS)
TOWER = Subject(design_tower, (96, 128), (0.1, 0.3, 0.4), (0.95, 1.25), OUTDOORS)
VESSEL = Subject(design_vessel, (112, 128), (0.12, 0.3, 0.15), (0.85, 1.1), INDOORS)
CATEGORIES = {"Dog": DOG, "Food": DISH, "Garment": GARMENT, "Vehicle": CAR, "Location": TOWER}
NUM_CLASSES = {"train": 48, "val": 6, "test": 12}
STAMP = "rendered.txt"


@dataclass(frozen=True)
class DemoDomain:
    """A domain whose classes are instances of one subject.

    The numbers of images are per class, those of classes per split. If a domain has studio images,
    they are the index of its test split, and the photographs are the queries.
    """

    key: str
    subject: Subject
    num_photos: int = 13
    num_studio_images: int = 0
    num_classes: Mapping[str, int] = field(default_factory=lambda: NUM_CLASSES)


DOMAINS = (
    DemoDomain("fruit", DISH),
    DemoDomain("cars", CAR),
    DemoDomain("products", VESSEL),
    DemoDomain("garments", GARMENT, num_photos=9, num_studio_images=4),
    DemoDomain("leaves", LEAF),
    DemoDomain("paintings", PAINTING),
    DemoDomain("towers", TOWER),
    DemoDomain("packages", PACKAGE, num_photos=9, num_studio_images=4),
)


class _Class(NamedTuple):
    subject: Subject
    directory: str
    images: list[str]
    seed: int

    def render(self, root: Path) -> int:
        # One random stream for the class and one for each image, whatever the other classes are.
        streams = (np.random.default_rng((self.seed, n, *self.directory.encode())) for n in count())
        draw = self.subject.design(next(streams))
        (root / self.directory).mkdir(parents=True)
        for name, rng in zip(self.images, streams, strict=False):
            image = photograph(draw, self.subject, rng, studio=name.startswith("studio"))
            image.save(root / self.directory / name, quality=int(rng.integers(80, 94)))
        return len(self.images)


def render_domains(
    output: Path, seed: int = 0, num_processes: int = 1, domains: Sequence[DemoDomain] = DOMAINS
) -> int:
    """Renders domains in UnED's layout, as `info_files/` and `images/`.

    Args:
        output: Directory to make; one that was rendered before is renewed if it is out of date.
        seed: Seed of all classes and images.
        num_processes: Number of processes.
        domains: Domains to render.

    Returns:
        The number of images rendered; 0 if the same images exist already.

    Raises:
        UserError: If `output` holds other files or cannot be written.
    """
    classes, info = [], {}
    for domain in domains:
        photos = [f"{n:02}.jpg" for n in range(domain.num_photos)]
        studio = [f"studio_{n:02}.jpg" for n in range(domain.num_studio_images)]
        splits = [split for split, size in domain.num_classes.items() for _ in range(size)]
        names = [f"{domain.key}_{number:02}" for number in range(len(splits))]
        info[f"{domain.key}/class_names"] = names
        for number, (split, name) in enumerate(zip(splits, names, strict=True)):
            folder = f"{domain.key}/{name}"
            classes.append(_Class(domain.subject, f"images/{folder}", photos + studio, seed))
            for image in photos + studio:
                key = "index" if split == "test" and image in studio else split
                row = {"path": f"{folder}/{image}", "class_id": number}
                info.setdefault(f"{domain.key}/{key}", []).append(row)
    return _render(output, classes, info, num_processes)


def render_gallery(output: Path, seed: int = 0, num_processes: int = 1) -> int:
    """Renders 20 images in each of 5 categories; otherwise as `render_domains`."""
    images = [f"{n:02}.jpg" for n in range(4)]
    classes = [
        _Class(subject, f"{category}/{category.lower()}_{n}", images, seed)
        for category, subject in CATEGORIES.items()
        for n in range(5)
    ]
    return _render(output, classes, {}, num_processes)


def _render(output: Path, classes: list[_Class], info: dict, num_processes: int) -> int:
    # The stamp changes with the code that draws, and with the libraries that it draws with.
    code = [path.read_text() for path in sorted(Path(__file__).parent.glob("*.py"))]
    content = repr([[item[1:] for item in classes], info, code, np.__version__, PIL.__version__])
    stamp = hashlib.sha256(content.encode()).hexdigest()
    try:
        if output.exists() and any(output.iterdir()):
            if not (output / STAMP).exists():
                raise UserError(f"{output} (from --output) holds other files; give a new directory")
            if (output / STAMP).read_text() == stamp:
                return 0
            shutil.rmtree(output)  # rendered by other code or with other settings
        with atomic_directory(output) as root:
            for name, rows in info.items():
                path = root / "info_files" / f"{name}.json"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(rows, indent=0) + "\n")
            total = _render_classes(root, classes, num_processes)
            (root / STAMP).write_text(stamp)
    except OSError as error:
        raise UserError(f"{output} (from --output) cannot be written: {error}") from None
    return total


def _render_classes(root: Path, classes: list[_Class], num_processes: int) -> int:
    render = functools.partial(_Class.render, root=root)
    bar = functools.partial(tqdm, total=len(classes), desc="rendering", unit=" classes")
    if num_processes == 1:
        return sum(bar(map(render, classes)))
    # Spawned, because a fork of a program with threads can hang.
    with multiprocessing.get_context("spawn").Pool(num_processes) as pool:
        return sum(bar(pool.imap_unordered(render, classes, chunksize=4)))
