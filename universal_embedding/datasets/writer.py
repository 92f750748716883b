"""Writes all splits of a dataset, in this process or by the workers of Apache Beam.

A shard counts once its result is in the working folder; what is there when the same images are
prepared again, with the same options, is kept.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epath
from tqdm import tqdm

from universal_embedding.datasets import shards
from universal_embedding.datasets.beam import write_with_beam
from universal_embedding.datasets.examples import DatasetManifest, Labels, SplitManifest
from universal_embedding.errors import UserError
from universal_embedding.files import atomic_write, list_directory, reporting_unreadable

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

WORK_DIR = "work"
SKIPPED_FILE = "skipped.jsonl"
PLAN_FILE = "plan.json"
LOCK_FILE = "lock"


@dataclass(frozen=True)
class WriteResult:
    """One written split.

    Attributes:
        manifest: The images that have a record.
        lengths: Bytes of each record, by shard.
        source_bytes: Bytes of these images' files.
        image_bytes: Bytes of the images as they are in the records.
    """

    manifest: SplitManifest
    lengths: list[np.ndarray]
    source_bytes: int
    image_bytes: int


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


@dataclass(frozen=True)
class WriteOptions:
    """Settings of `write_splits`.

    Attributes:
        max_side: Larger images are made this large; None: all stay as they are.
        skip_corrupt: Leave out corrupt images instead of raising.
        show_progress: Show a progress bar.
        beam_options: Options of the Beam pipeline that writes the shards; None: this process writes
            them one after another.
    """

    max_side: int | None = None
    skip_corrupt: bool = False
    show_progress: bool = False
    beam_options: "PipelineOptions | None" = None


def write_splits(
    manifest: DatasetManifest,
    folder: epath.Path,
    shard_name: Callable[[str, int, int], str],
    options: WriteOptions,
    fingerprint: Mapping[str, Any],
) -> dict[str, WriteResult]:
    """Writes the records of every split into `folder`, and the list of skipped images, if any.

    Args:
        manifest: The images to write.
        folder: Directory of the record files and of the working folder, which the caller made and
            removes.
        shard_name: `(split, shard index, number of shards) -> file name`.
        options: Settings.
        fingerprint: Whatever else the records depend on: shards of other settings are removed.

    Raises:
        UserError: An image is corrupt or missing, or no image of a split is left.
    """
    jobs = _plan_jobs(manifest, folder, shard_name, options, fingerprint)
    jobs[0].shard.abort_file.unlink(missing_ok=True)
    whole = _read_results(folder, jobs)
    pending = [job for job in jobs if job.shard not in whole]
    for job in pending:
        job.shard.result_file.unlink(missing_ok=True)
    total = sum(map(len, manifest.splits.values()))
    done = total - sum(len(job.indices) for job in pending)
    with tqdm(total=total, initial=done, unit=" images", disable=not options.show_progress) as bar:
        _write_shards([job.shard for job in pending], options.beam_options, bar)
    if jobs[0].shard.abort_file.exists():
        raise _corrupt_image(manifest, jobs)
    whole = _read_results(folder, jobs)
    missing = [job.shard.records for job in jobs if job.shard not in whole]
    if missing:
        raise UserError(f"{missing[0]} was not written; run the same command again")
    written = [(job, whole[job.shard]) for job in jobs]
    skipped = list(_list_skipped(manifest, written))
    if skipped:
        with atomic_write(folder / SKIPPED_FILE) as file:
            file.writelines(json.dumps(entry) + "\n" for entry in skipped)
    else:
        (folder / SKIPPED_FILE).unlink(missing_ok=True)
    return {split: _summarize_split(manifest, split, written) for split in manifest.splits}


def _write_shards(
    specs: Sequence[shards.ShardSpec], beam_options: "PipelineOptions | None", bar: tqdm
) -> None:
    if beam_options is None:
        for spec in specs:
            shards.write_shard(spec, bar.update)
            if spec.abort_file.exists():
                return
    elif specs:
        write_with_beam(specs, beam_options, bar)


def _read_results(
    folder: epath.Path, jobs: Sequence[WriteJob]
) -> dict[shards.ShardSpec, shards.ShardResult]:
    """The results of the shards that are whole."""
    names = {path.name for path in list_directory(folder / WORK_DIR)}
    specs = [job.shard for job in jobs if job.shard.result_file.name in names]
    results = ((spec, shards.read_shard_result(spec)) for spec in specs)
    return {spec: result for spec, result in results if result is not None}


def read_skipped_images(folder: epath.Path) -> list[tuple[str, str, str]]:
    """Split, path and reason of each image that was left out of a prepared folder."""
    file = folder / SKIPPED_FILE
    if not file.exists():
        return []
    with reporting_unreadable(file, f"delete {folder} and prepare it again"):
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        return [(str(split), str(path), str(reason)) for split, path, reason in rows]


def _plan_jobs(
    manifest: DatasetManifest,
    folder: epath.Path,
    shard_name: Callable[[str, int, int], str],
    options: WriteOptions,
    fingerprint: Mapping[str, Any],
) -> list[WriteJob]:
    """The shards to write: as planned before in `folder`, if that was for the same images."""
    work_dir = folder / WORK_DIR
    digest = _hash(manifest, fingerprint)
    try:
        with reporting_unreadable(work_dir / PLAN_FILE, f"delete {folder} and prepare it again"):
            plan = dict(json.loads((work_dir / PLAN_FILE).read_text()))
    except FileNotFoundError:
        plan = {}
    if plan.get("fingerprint") != digest:
        _clear(folder, is_unfinished=bool(plan))
        bounds = {}
        for split, split_manifest in manifest.splits.items():
            ranges = shards.plan_shards(manifest.root, split_manifest)
            bounds[split] = [0, *(indices.stop for indices in ranges)]
            for i, indices in enumerate(ranges):
                file = _manifest_file(work_dir, split, i)
                shards.write_shard_manifest(file, split_manifest, indices)
        plan = {"fingerprint": digest, "bounds": bounds}
        with atomic_write(work_dir / PLAN_FILE) as plan_file:
            json.dump(plan, plan_file)
    num_threads = shards.count_threads(manifest.root, options.beam_options is None)
    return [
        WriteJob(
            split,
            range(start, stop),
            shards.ShardSpec(
                str(_manifest_file(work_dir, split, i)),
                stop - start,
                str(folder / shard_name(split, i, len(bounds) - 1)),
                str(manifest.root),
                options.max_side,
                options.skip_corrupt,
                num_threads,
            ),
        )
        for split, bounds in plan["bounds"].items()
        for i, (start, stop) in enumerate(pairwise(bounds))
    ]


def _manifest_file(work_dir: epath.Path, split: str, shard: int) -> epath.Path:
    return work_dir / f"{split}-{shard:05d}.json"


def _hash(manifest: DatasetManifest, fingerprint: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode())
    for split, split_manifest in manifest.splits.items():
        digest.update(json.dumps([split, split_manifest.paths]).encode())
        digest.update(split_manifest.labels.values.tobytes())
        digest.update(split_manifest.labels.splits.tobytes())
    return digest.hexdigest()


def _clear(folder: epath.Path, is_unfinished: bool) -> None:
    """Removes an unfinished preparation; refuses to remove anything else."""
    files = [path for path in list_directory(folder) if path.name != WORK_DIR]
    if files and not is_unfinished:
        raise UserError(
            f"{folder} holds {files[0].name}, which no preparation left there; move the folder "
            "away, or use another --data_dir"
        )
    if is_unfinished:
        print(f"{folder} is unfinished, with other images or options: starting over")
    for path in [*files, *list_directory(folder / WORK_DIR)]:
        if path.name != LOCK_FILE:
            path.unlink()


def _corrupt_image(manifest: DatasetManifest, jobs: Sequence[WriteJob]) -> UserError:
    abort = json.loads(jobs[0].shard.abort_file.read_text())
    split = next(job.split for job in jobs if job.shard.manifest == abort["manifest"])
    return UserError(
        f"{manifest.root / abort['path']} (split {split!r} of {manifest.source_path}) cannot be "
        f"used: {abort['reason']}; replace it, or leave out such images with --skip_corrupt"
    )


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
        [np.array(result.lengths, np.int64) for result in results],
        sum(result.source_bytes for result in results),
        sum(result.image_bytes for result in results),
    )
