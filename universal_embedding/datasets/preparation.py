"""Preparing the domains of a data set, one after the other."""

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from universal_embedding.datasets import generation, records
from universal_embedding.datasets.builder import OPTIONS, PictureBuilder
from universal_embedding.errors import UserError


@dataclass(frozen=True)
class Row:
    """One prepared split, as the summary shows it."""

    domain: str
    split: str
    pictures: int
    classes: int
    bytes: int
    skipped: int


def prepare(
    builder: PictureBuilder,
    manual_dir: Path,
    beam_pipeline_options: str | None = None,
) -> bool:
    """Prepares one domain; returns False if that was done before.

    Args:
        builder: The domain's builder.
        manual_dir: Where its pictures are.
        beam_pipeline_options: Beam's own options, comma-separated; None: one process, no Beam.
    """
    final = Path(builder.data_dir)
    if final.is_dir():
        _check_same_options(final, builder.options)
        return False
    if not any(manual_dir.iterdir()):
        raise UserError(f"{manual_dir} is empty. {builder.MANUAL_DOWNLOAD_INSTRUCTIONS}")
    options = None
    if beam_pipeline_options is not None:
        from universal_embedding.datasets import beam

        options = beam.parse_options(beam_pipeline_options)
    for unfinished in final.parent.glob(f"incomplete.*{final.name}"):  # of a killed preparation
        shutil.rmtree(unfinished)
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=manual_dir, beam_options=options)
    )
    return True


def _check_same_options(folder: Path, asked: dict[str, Any]) -> None:
    before = json.loads((folder / OPTIONS).read_text("utf-8"))
    different = [name for name in asked if before.get(name) != asked[name]]
    if different:
        name = different[0]
        raise UserError(
            f"{folder} was prepared with --{name}={before.get(name)}, now asked for "
            f"--{name}={asked[name]}: delete the folder, or choose another --data_dir"
        )


def summary(data_dir: Path, dataset: str, keys: Iterable[str]) -> list[Row]:
    """Pictures, classes, bytes and skipped pictures of each prepared split."""
    rows = []
    for domain in keys:
        folder = records.prepared_folder(data_dir, dataset, domain)
        skipped = generation.read_skipped(folder)
        for split, info in records.open_builder(folder).info.splits.items():
            opened = records.Records(folder, domain, split)
            rows.append(
                Row(
                    domain,
                    split,
                    len(opened),
                    len(np.unique(opened.labels.values)),
                    info.num_bytes,
                    sum(name == split for name, _, _ in skipped),
                )
            )
    return rows


def table(rows: Iterable[Row]) -> str:
    """The summary as text."""
    lines = [f"{'domain':<16}{'split':<12}{'pictures':>11}{'classes':>10}{'MB':>11}{'skipped':>9}"]
    for row in rows:
        lines.append(
            f"{row.domain:<16}{row.split:<12}{row.pictures:>11,}{row.classes:>10,}"
            f"{row.bytes / 1e6:>11,.1f}{row.skipped:>9,}"
        )
    return "\n".join(lines)
