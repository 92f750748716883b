"""Prepares the domains of a dataset one after the other, and verifies and summarizes them."""

import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from universal_embedding.datasets import records, uned, writer
from universal_embedding.datasets.builder import OPTIONS_FILE, ImageRetrievalBuilder
from universal_embedding.datasets.domains import GUIE, UNED, sort_domains
from universal_embedding.datasets.guie import Guie, GuieConfig
from universal_embedding.datasets.image_folder import ImageFolderConfig, make_image_folder_builder
from universal_embedding.datasets.records import Records
from universal_embedding.errors import UserError

BUILDER_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "uned": ("allow_partial",),
    "guie": ("allow_partial", *GuieConfig.__dataclass_fields__),
    "folder": tuple(ImageFolderConfig.__dataclass_fields__),
}
VERIFY_BATCH_SIZE = 64


@dataclass(frozen=True)
class SplitSummary:
    """Counts of one prepared split."""

    domain: str
    split: str
    num_images: int
    num_classes: int
    num_bytes: int
    num_skipped: int


def list_domains(dataset: str, manual_dir: Path, selected: Sequence[str] = ()) -> list[str]:
    """The domains to prepare: the selected ones, or all that the dataset has.

    Raises:
        UserError: The dataset has no such domain.
    """
    if dataset == "folder":
        keys = [manual_dir.name]
    elif dataset in ("uned", "guie"):
        keys = list({"uned": UNED, "guie": GUIE}[dataset])
    else:
        keys = uned.list_info_domains(manual_dir / uned.INFO_DIR)
    unknown = [key for key in selected if key not in keys]
    if unknown:
        raise UserError(
            f"--domains={unknown[0]} is not a domain of {dataset}; use some of {', '.join(keys)}"
        )
    return sort_domains(selected or keys) if dataset != "guie" else list(selected or keys)


def make_builder(
    dataset: str, domain: str, options: Mapping[str, Any] | None = None, **kwargs: Any
) -> ImageRetrievalBuilder:
    """Makes the builder of one domain.

    Args:
        dataset: `uned`, `guie`, `folder`, or the name of a dataset in UnED's layout.
        domain: One of its domains.
        options: Options of single datasets, see `BUILDER_OPTIONS`.
        **kwargs: Arguments of every `ImageRetrievalBuilder`.

    Raises:
        UserError: An option is not for this dataset, or a name cannot be used.
    """
    options = dict(options or {})
    for name in options:
        if name not in BUILDER_OPTIONS.get(dataset, ()):
            owners = [key for key, names in BUILDER_OPTIONS.items() if name in names]
            raise UserError(
                f"--{name} does not apply to --dataset={dataset}, only to {', '.join(owners)}; "
                "remove it"
            )
    for name in (dataset, domain):
        if not re.fullmatch(r"[A-Za-z][\w-]*", name):
            raise UserError(
                f"{name!r} cannot name a dataset or domain (use letters, digits, _ and -); "
                "rename the folder, or set --dataset"
            )
    if dataset == "uned":
        return uned.Uned(config=domain, **options, **kwargs)
    if dataset == "guie":
        allow_partial = options.pop("allow_partial", False)
        config = GuieConfig(**options)
        return Guie(config=domain, guie_config=config, allow_partial=allow_partial, **kwargs)
    if dataset == "folder":
        return make_image_folder_builder(
            domain, folder_config=ImageFolderConfig(**options), **kwargs
        )
    return uned.make_uned_layout_builder(dataset, domain, **kwargs)


def prepare(
    builder: ImageRetrievalBuilder,
    manual_dir: Path,
    beam_pipeline_options: str | None = None,
) -> bool:
    """Prepares one domain, unless it is prepared already.

    Args:
        builder: The domain's builder.
        manual_dir: Folder of the images.
        beam_pipeline_options: Beam's options, comma-separated; None: one process, no Beam.

    Returns:
        False if it was prepared before.

    Raises:
        UserError: An image is corrupt, or the domain was prepared with other options.
    """
    folder = Path(builder.data_dir)
    if folder.is_dir():
        _check_same_options(folder, builder.options)
        return False
    if not any(manual_dir.iterdir()):
        raise UserError(f"{manual_dir} is empty. {builder.MANUAL_DOWNLOAD_INSTRUCTIONS}")
    options = None
    if beam_pipeline_options is not None:
        options = writer.parse_beam_options(beam_pipeline_options)
    for unfinished in folder.parent.glob(f"incomplete.*{folder.name}"):  # of a killed process
        shutil.rmtree(unfinished)
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=manual_dir, beam_options=options)
    )
    return True


def _check_same_options(folder: Path, options: Mapping[str, Any]) -> None:
    stored = json.loads((folder / OPTIONS_FILE).read_text("utf-8"))
    for name, value in options.items():
        if stored.get(name) != value:
            raise UserError(
                f"{folder} was prepared with --{name}={stored.get(name)}, not --{name}={value}; "
                "delete the folder, or use another --data_dir"
            )


def summarize(data_dir: Path, dataset: str, keys: Iterable[str]) -> list[SplitSummary]:
    """Counts images, classes, bytes and skipped images of each prepared split."""
    rows = []
    for domain in keys:
        folder = records.dataset_dir(data_dir, dataset, domain)
        skipped = writer.read_skipped_images(folder)
        for split, info in records.open_builder(folder).info.splits.items():
            labels = Records(folder, domain, split).labels
            rows.append(
                SplitSummary(
                    domain,
                    split,
                    len(labels),
                    len(np.unique(labels.values)),
                    info.num_bytes,
                    sum(name == split for name, _, _ in skipped),
                )
            )
    return rows


def format_table(rows: Iterable[SplitSummary]) -> str:
    """Formats the summary as text."""
    lines = [f"{'domain':<16}{'split':<12}{'images':>11}{'classes':>10}{'MB':>11}{'skipped':>9}"]
    for row in rows:
        lines.append(
            f"{row.domain:<16}{row.split:<12}{row.num_images:>11,}{row.num_classes:>10,}"
            f"{row.num_bytes / 1e6:>11,.1f}{row.num_skipped:>9,}"
        )
    return "\n".join(lines)


def verify_records(folder: Path, domain: str, show_progress: bool = False) -> int:
    """Reads every record of a prepared folder and checks its labels, its id, and that it decodes.

    Returns:
        The number of images.

    Raises:
        UserError: A record is wrong; the message names the first one.
    """
    remedy = f"delete {folder} and prepare it again"
    try:
        splits = records.open_builder(folder).info.splits
        total = sum(info.num_examples for info in splits.values())
        description = f"verify {domain}"
        with tqdm(total=total, desc=description, unit=" images", disable=not show_progress) as bar:
            for split in splits:
                for problem in _find_problems(Records(folder, domain, split)):
                    bar.update()
                    if problem:
                        raise UserError(f"{folder}, split {split!r}, {problem}; {remedy}")
    except (OSError, ValueError, IndexError, RuntimeError) as error:  # of a damaged file
        raise UserError(f"cannot read {folder} ({error}); {remedy}") from None
    return total


def _find_problems(split_records: Records) -> Iterator[str]:
    """The problem of each record, or the empty string."""
    for start in range(0, len(split_records), VERIFY_BATCH_SIZE):
        indices = range(start, min(start + VERIFY_BATCH_SIZE, len(split_records)))
        examples = split_records.read_examples(indices)
        for index, example in zip(indices, examples, strict=True):
            yield _find_problem(split_records, index, example)


def _find_problem(split_records: Records, index: int, example: Mapping[str, Any]) -> str:
    import tensorflow as tf

    image_id = example["image_id"].decode("utf-8")
    if image_id != split_records.image_ids[index]:
        return f"record {index} is {image_id}, not {split_records.image_ids[index]}"
    labels = [int(label) for label in example["label"]]
    if labels != split_records.labels[index].tolist():
        return f"record {index} ({image_id}) has labels {labels}, not {split_records.labels[index]}"
    try:
        tf.io.decode_image(example["image"], channels=3, expand_animations=False)
    except tf.errors.InvalidArgumentError:
        return f"record {index} ({image_id}) does not decode"
    return ""
