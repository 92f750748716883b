"""Writes all splits of a dataset, in this process or by the workers of Apache Beam."""

import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from universal_embedding.datasets import shards
from universal_embedding.datasets.examples import DatasetManifest, Labels, SplitManifest
from universal_embedding.errors import UserError

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

SKIPPED_FILE = "skipped.txt"


@dataclass(frozen=True)
class WriteResult:
    """One written split: the images that have a record, and the sizes of its files."""

    manifest: SplitManifest
    shard_lengths: list[int]
    num_bytes: int


@dataclass(frozen=True)
class WriteJob:
    """One shard of one split.

    Attributes:
        split: The split's name.
        indices: The shard's images, as positions in the split.
        shard: The work order.
    """

    split: str
    indices: range
    shard: shards.ShardSpec


def write_splits(
    manifest: DatasetManifest,
    folder: Path,
    shard_name: Callable[[str, int, int], str],
    skip_corrupt: bool = False,
    show_progress: bool = False,
    beam_runner: Any = None,
    beam_options: "PipelineOptions | None" = None,
) -> dict[str, WriteResult]:
    """Writes the records of every split into `folder`, and the list of skipped images, if any.

    Args:
        manifest: The images to write.
        folder: Directory of the record files; unfinished until the caller renames it.
        shard_name: `(split, shard index, number of shards) -> file name`.
        skip_corrupt: Leave out corrupt images instead of raising.
        show_progress: Show a progress bar.
        beam_runner: Runner of the Beam pipeline that writes the shards; without runner and options,
            this process writes them one after another.
        beam_options: Options of that pipeline.

    Raises:
        UserError: An image is corrupt or missing, or no image of a split is left.
    """
    work_dir = folder / "work"
    work_dir.mkdir()
    jobs = _plan_jobs(manifest, folder, work_dir, shard_name, skip_corrupt)
    total = sum(map(len, manifest.splits.values()))
    with tqdm(total=total, unit=" images", disable=not show_progress) as bar:
        if beam_runner is None and beam_options is None:
            for job in jobs:
                shards.write_shard(job.shard, bar.update)
                if job.shard.abort_file.exists():
                    break
        else:
            with watch_progress(jobs, bar):
                _write_with_beam([job.shard for job in jobs], beam_runner, beam_options)
    finished = [job for job in jobs if job.shard.result_file.is_file()]
    written = [(job, shards.read_shard_result(job.shard)) for job in finished]
    skipped = list(_list_skipped(manifest, written))
    if skipped and not skip_corrupt:
        split, path, reason = skipped[0]
        raise UserError(
            f"{manifest.root / path} (split {split!r} of {manifest.source_path}) cannot be used: "
            f"{reason}; replace it, or leave out such images with --skip_corrupt"
        )
    if skipped:
        lines = (f"{split}\t{path}\t{reason}\n" for split, path, reason in skipped)
        (folder / SKIPPED_FILE).write_text("".join(lines), "utf-8")
    shutil.rmtree(work_dir)
    return {split: _summarize_split(manifest, split, written) for split in manifest.splits}


@contextmanager
def watch_progress(jobs: Sequence[WriteJob], bar: tqdm) -> Iterator[None]:
    """Advances the bar as shards are finished, in whatever process, while the block runs."""
    finished = threading.Event()

    def watch() -> None:
        pending = list(jobs)
        while pending:
            is_last = finished.wait(0.5)
            done = [job for job in pending if job.shard.result_file.is_file()]
            bar.update(sum(len(job.indices) for job in done))
            pending = [job for job in pending if job not in done]
            if is_last:
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        finished.set()
        watcher.join()


def read_skipped_images(folder: Path) -> list[tuple[str, str, str]]:
    """Split, path and reason of each image that was left out of a prepared folder."""
    file = folder / SKIPPED_FILE
    if not file.is_file():
        return []
    lines = file.read_text("utf-8").splitlines()
    return [(split, path, reason) for split, path, reason in (line.split("\t") for line in lines)]


def parse_beam_options(text: str) -> "PipelineOptions":
    """Parses Beam's options from `runner=DirectRunner,direct_num_workers=2`, as TFDS does.

    Raises:
        UserError: Apache Beam is not installed or refuses the options.
    """
    try:
        from apache_beam.options.pipeline_options import PipelineOptions, TypeOptions
    except ImportError as error:
        raise UserError(
            f"--beam_pipeline_options needs Apache Beam ({error}): "
            "pip install 'universal-embedding[beam]'"
        ) from None
    try:
        options = PipelineOptions([f"--{item.strip()}" for item in text.split(",") if item.strip()])
        options.get_all_options()
    except (SystemExit, ValueError) as error:
        raise UserError(
            f"Apache Beam refuses --beam_pipeline_options={text} ({error}); correct them"
        ) from None
    # Without this, the direct runner would first download another one, Prism. This pipeline has no
    # triggers.
    options.view_as(TypeOptions).allow_unsafe_triggers = True
    return options


def _write_with_beam(
    specs: Sequence[shards.ShardSpec], runner: Any, options: "PipelineOptions | None"
) -> None:
    """Writes each shard in some worker; they and this process must see the same files.

    A worker reads a manifest and writes a record file, so no image passes through Beam.
    """
    import apache_beam as beam

    with beam.Pipeline(runner=runner, options=options) as pipeline:
        _ = (
            pipeline
            | "Shards" >> beam.Create(list(specs))
            | "Spread" >> beam.Reshuffle()
            | "Write" >> beam.Map(shards.write_shard)
        )


def _plan_jobs(
    manifest: DatasetManifest,
    folder: Path,
    work_dir: Path,
    shard_name: Callable[[str, int, int], str],
    skip_corrupt: bool,
) -> list[WriteJob]:
    jobs = []
    for split, split_manifest in manifest.splits.items():
        ranges = shards.plan_shards(split_manifest)
        for i, indices in enumerate(ranges):
            shard_manifest = str(work_dir / f"{split}-{i:05d}.json")
            shards.write_shard_manifest(shard_manifest, split_manifest, indices)
            records = str(folder / shard_name(split, i, len(ranges)))
            spec = shards.ShardSpec(shard_manifest, records, str(manifest.root), skip_corrupt)
            jobs.append(WriteJob(split, indices, spec))
    return jobs


def _list_skipped(
    manifest: DatasetManifest, written: list[tuple[WriteJob, shards.ShardResult]]
) -> Iterator[tuple[str, str, str]]:
    for job, result in written:
        for position, reason in result.skipped:
            yield job.split, manifest.splits[job.split].paths[job.indices[position]], reason


def _summarize_split(
    manifest: DatasetManifest, split: str, written: list[tuple[WriteJob, shards.ShardResult]]
) -> WriteResult:
    split_manifest = manifest.splits[split]
    kept = np.ones(len(split_manifest), bool)
    results = []
    for job, result in written:
        if job.split == split:
            kept[[job.indices[position] for position, _ in result.skipped]] = False
            results.append(result)
    if not kept.any():
        raise UserError(
            f"no image of split {split!r} of {manifest.source_path} can be decoded; replace the "
            "images, or remove the split"
        )
    indices = np.flatnonzero(kept).tolist()
    return WriteResult(
        SplitManifest(
            [split_manifest.paths[i] for i in indices],
            Labels.from_rows([split_manifest.labels[i] for i in indices]),
        ),
        [result.num_images for result in results],
        sum(result.num_bytes for result in results),
    )
