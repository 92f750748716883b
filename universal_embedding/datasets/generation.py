"""All shards of a collection: planned, written by one process or by Beam's workers, and counted."""

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from universal_embedding.datasets import shards
from universal_embedding.datasets.collection import Collection, Entries
from universal_embedding.datasets.labels import Labels
from universal_embedding.errors import UserError

SKIPPED = "skipped.txt"


@dataclass(frozen=True)
class Written:
    """One split as it came out: the entries that have a record, and the files' sizes."""

    entries: Entries
    shard_lengths: list[int]
    bytes: int


@dataclass(frozen=True)
class Job:
    """One shard of one split."""

    split: str
    part: range
    shard: shards.Shard


def generate(
    collection: Collection,
    folder: Path,
    record_file: Callable[[str, int, int], str],
    skip_broken: bool = False,
    progress: bool = False,
    beam_runner: Any = None,
    beam_options: Any = None,
) -> dict[str, Written]:
    """Writes every split's records into `folder`, and the list of skipped pictures, if any.

    Args:
        collection: What to write.
        folder: Where; its content counts as unfinished until the caller renames it.
        record_file: `(split, shard, shards) -> file name`.
        skip_broken: Leave out broken pictures instead of raising.
        progress: Show a progress bar.
        beam_runner: Write the shards in a pipeline of this runner; None: here, one after another.
        beam_options: Beam's own `PipelineOptions`.

    Raises:
        UserError: A picture is broken or missing, or nothing is left of a split.
    """
    work = folder / "work"
    work.mkdir()
    jobs = _plan(collection, folder, work, record_file, skip_broken)
    total = sum(map(len, collection.splits.values()))
    with tqdm(total=total, unit=" pictures", disable=not progress) as bar:
        if beam_runner is None and beam_options is None:
            for job in jobs:
                shards.write(job.shard, bar.update)
                if job.shard.stop.exists():
                    break
        else:
            from universal_embedding.datasets import beam

            with _following(jobs, bar):
                beam.write_shards([job.shard for job in jobs], beam_runner, beam_options)
    outcomes = [shards.read_outcome(job.shard) for job in jobs if job.shard.outcome.is_file()]
    skipped = list(_skipped(collection, jobs, outcomes))
    if skipped and not skip_broken:
        split, path, reason = skipped[0]
        raise UserError(
            f"{collection.root / path} (split {split!r} of {collection.origin}) cannot be used: "
            f"{reason}; replace it, or leave out such pictures with --skip_broken"
        )
    if skipped:
        lines = (f"{split}\t{path}\t{reason}\n" for split, path, reason in skipped)
        (folder / SKIPPED).write_text("".join(lines), "utf-8")
    shutil.rmtree(work)
    return {name: _written(collection, name, jobs, outcomes) for name in collection.splits}


@contextmanager
def _following(jobs: list[Job], bar: tqdm) -> Iterator[None]:
    """Moves the bar as shards are finished, wherever that is."""
    over = threading.Event()

    def follow() -> None:
        waiting = list(jobs)
        while waiting:
            last = over.wait(0.5)
            done = [job for job in waiting if job.shard.outcome.is_file()]
            bar.update(sum(len(job.part) for job in done))
            waiting = [job for job in waiting if job not in done]
            if last:
                return

    follower = threading.Thread(target=follow)
    follower.start()
    try:
        yield
    finally:
        over.set()
        follower.join()


def _plan(
    collection: Collection,
    folder: Path,
    work: Path,
    record_file: Callable[[str, int, int], str],
    skip_broken: bool,
) -> list[Job]:
    jobs = []
    for split, entries in collection.splits.items():
        parts = shards.plan(entries)
        for number, part in enumerate(parts):
            manifest = str(work / f"{split}-{number:05d}.json")
            shards.write_manifest(manifest, entries, part)
            records = str(folder / record_file(split, number, len(parts)))
            shard = shards.Shard(manifest, records, str(collection.root), skip_broken)
            jobs.append(Job(split, part, shard))
    return jobs


def _skipped(
    collection: Collection, jobs: list[Job], outcomes: list[shards.Outcome]
) -> Iterator[tuple[str, str, str]]:
    for job, outcome in zip(jobs, outcomes, strict=False):
        for position, reason in outcome.skipped:
            yield job.split, collection.splits[job.split].paths[job.part[position]], reason


def _written(
    collection: Collection, split: str, jobs: list[Job], outcomes: list[shards.Outcome]
) -> Written:
    entries = collection.splits[split]
    kept = np.ones(len(entries), bool)
    mine = [(job, out) for job, out in zip(jobs, outcomes, strict=True) if job.split == split]
    for job, outcome in mine:
        kept[[job.part[position] for position, _ in outcome.skipped]] = False
    if not kept.any():
        raise UserError(f"no picture of split {split!r} of {collection.origin} can be decoded")
    numbers = np.flatnonzero(kept).tolist()
    left = Entries(
        [entries.paths[i] for i in numbers], Labels.of([entries.labels[i] for i in numbers])
    )
    lengths = [outcome.pictures for _, outcome in mine]
    return Written(left, lengths, sum(outcome.bytes for _, outcome in mine))


def read_skipped(folder: Path) -> list[tuple[str, str, str]]:
    """Split, path and reason of each picture that was left out of a prepared folder."""
    file = folder / SKIPPED
    if not file.is_file():
        return []
    lines = file.read_text("utf-8").splitlines()
    return [(split, path, reason) for split, path, reason in (line.split("\t") for line in lines)]
