"""Drawing many classes at once: one job draws every picture of one class."""

import multiprocessing
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from universal_embedding.datasets.rendered.scene import Thing, photograph, studio


@dataclass(frozen=True)
class Job:
    """One class: the folder its pictures go to, and the random stream that it is drawn from.

    The stream follows from (seed, domain, number) alone: neither the processes nor the other
    classes change a picture.
    """

    thing: type[Thing]
    folder: Path
    seed: int
    domain: str
    number: int
    photos: int
    catalogue: int = 0


def stream(seed: int, domain: str, *numbers: int) -> np.random.Generator:
    """The random numbers of a domain, of one of its classes, or of one of that class's pictures."""
    # numpy takes [1, 2] and [1, 2, 0] for the same seed; the count of numbers keeps them apart.
    entropy = [len(numbers), seed, zlib.crc32(domain.encode()), *numbers]
    return np.random.default_rng(entropy)


def picture_names(photos: int, catalogue: int) -> tuple[list[str], list[str]]:
    """File names of a class's photographs and of its catalogue pictures."""
    return [f"{n:02}.jpg" for n in range(photos)], [f"studio_{n:02}.jpg" for n in range(catalogue)]


def draw_class(job: Job) -> int:
    """Draws one class; gives the number of pictures written."""
    thing = job.thing.design(stream(job.seed, job.domain, job.number))
    job.folder.mkdir(parents=True)
    photos, catalogue = picture_names(job.photos, job.catalogue)
    for n, name in enumerate(photos + catalogue):
        rng = stream(job.seed, job.domain, job.number, n)
        image = (photograph if n < job.photos else studio)(thing, rng)
        image.save(job.folder / name, "JPEG", quality=int(rng.integers(80, 94)))
    return len(photos) + len(catalogue)


def draw_all(jobs: Sequence[Job], processes: int) -> int:
    """Draws every class, showing progress; gives the number of pictures."""
    total = sum(job.photos + job.catalogue for job in jobs)
    with tqdm(total=total, desc="rendering", unit=" pictures", smoothing=0) as bar:
        return sum(_counted(_results(jobs, processes), bar))


def _results(jobs: Sequence[Job], processes: int) -> Iterable[int]:
    if processes == 1:
        yield from map(draw_class, jobs)
        return
    # Fresh processes: a fork of a program whose libraries have threads can hang.
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(draw_class, jobs, chunksize=4)


def _counted(counts: Iterable[int], bar: tqdm) -> Iterable[int]:
    for count in counts:
        bar.update(count)
        yield count
