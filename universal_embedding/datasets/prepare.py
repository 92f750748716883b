"""Prepares the domains of a dataset one after the other, and verifies and summarizes them."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from etils import epath
from tqdm import tqdm

from universal_embedding.datasets import metadata, records, uned
from universal_embedding.datasets.beam import parse_beam_options
from universal_embedding.datasets.builder import ImageRetrievalBuilder
from universal_embedding.datasets.domains import GUIE, UNED, sort_domains
from universal_embedding.datasets.guie import Guie, GuieConfig
from universal_embedding.datasets.image_folder import ImageFolderBuilder, ImageFolderConfig
from universal_embedding.datasets.records import Records
from universal_embedding.datasets.tfrecord import decode_example
from universal_embedding.datasets.writer import WriteResult, read_skipped_images
from universal_embedding.errors import UserError
from universal_embedding.files import (
    as_path,
    list_directory,
    reporting_storage_errors,
    reporting_unreadable,
)

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


def list_domains(dataset: str, manual_dir: epath.Path, selected: Sequence[str] = ()) -> list[str]:
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
        if not records.DOMAIN_NAME.fullmatch(name):
            raise UserError(
                f"{name!r} cannot name a dataset or domain (use letters, digits, _ and -); "
                "rename the folder, or set --dataset"
            )
    if dataset == "uned":
        return uned.Uned(domain, **options, **kwargs)
    if dataset == "guie":
        allow_partial = options.pop("allow_partial", False)
        config = GuieConfig(**options)
        return Guie(domain, guie_config=config, allow_partial=allow_partial, **kwargs)
    if dataset == "folder":
        return ImageFolderBuilder(domain, folder_config=ImageFolderConfig(**options), **kwargs)
    return uned.UnedLayoutBuilder(dataset, domain, **kwargs)


def prepare(
    builder: ImageRetrievalBuilder,
    manual_dir: str | os.PathLike,
    beam_pipeline_options: str | None = None,
) -> str:
    """Prepares one domain, unless it is prepared already.

    Args:
        builder: The domain's builder.
        manual_dir: Folder of the images, on any file system.
        beam_pipeline_options: Beam's options, comma-separated; None: one process, no Beam.

    Returns:
        A summary of what was done; empty if it was prepared before.

    Raises:
        UserError: An image is corrupt, the domain was prepared with other options, or another run
            is preparing it.
    """
    with reporting_storage_errors(builder.folder):
        options = metadata.read_options(builder.folder)
        if options is not None:
            _check_same_options(builder.folder, options, builder.options)
            builder.check_source(as_path(manual_dir), options)
            builder.remove_work_dir()  # of a run that was killed at its very end
            return ""
        manual_dir = as_path(manual_dir)
        if not list_directory(manual_dir):
            raise UserError(f"{manual_dir} is empty. {builder.instructions}")
        beam_options = None
        if beam_pipeline_options is not None:
            beam_options = parse_beam_options(beam_pipeline_options)
        written = builder.prepare(manual_dir, beam_options)
    return "" if written is None else _describe(builder, written.values())


def _describe(builder: ImageRetrievalBuilder, written: Iterable[WriteResult]) -> str:
    """`prepared`, and by how much a maximum side made the images smaller."""
    if builder.max_side is None:
        return "prepared"
    source, image = (
        sum(getattr(result, name) for result in written) for name in ("source_bytes", "image_bytes")
    )
    return (
        f"prepared; --max_side={builder.max_side} made {source / 1e6:,.1f} MB of images "
        f"{image / 1e6:,.1f} MB ({1 - image / max(source, 1):.0%} smaller)"
    )


def _check_same_options(
    folder: epath.Path, stored: Mapping[str, Any], options: Mapping[str, Any]
) -> None:
    for name, value in options.items():
        if stored.get(name) != value:
            raise UserError(
                f"{folder} was prepared with --{name}={stored.get(name)}, not --{name}={value}; "
                "delete the folder, or use another --data_dir"
            )


def summarize(data_dir: str | os.PathLike, dataset: str, keys: Iterable[str]) -> list[SplitSummary]:
    """Counts images, classes, bytes and skipped images of each prepared split."""
    rows = []
    for domain in keys:
        folder = records.dataset_dir(data_dir, dataset, domain)
        skipped = read_skipped_images(folder)
        for split, info in metadata.open_builder(folder).info.splits.items():
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


def verify_records(folder: epath.Path, domain: str, show_progress: bool = False) -> int:
    """Reads every record of a prepared folder and checks its labels, its id, and that it decodes.

    Returns:
        The number of images.

    Raises:
        UserError: A record is wrong; the message names the first one.
    """
    remedy = f"delete {folder} and prepare it again"
    with reporting_unreadable(folder, remedy):
        splits = metadata.open_builder(folder).info.splits
        total = sum(info.num_examples for info in splits.values())
        description = f"verify {domain}"
        with tqdm(total=total, desc=description, unit=" images", disable=not show_progress) as bar:
            for split in splits:
                for problem in _find_problems(Records(folder, domain, split)):
                    bar.update()
                    if problem:
                        raise UserError(f"{folder}, split {split!r}, {problem}; {remedy}")
    return total


def _find_problems(split_records: Records) -> Iterator[str]:
    """The problem of each record, or the empty string."""
    import tensorflow as tf

    # In file order, by the reader that looks at the checksums.
    stored = tf.data.TFRecordDataset(split_records.shard_paths).as_numpy_iterator()
    for start in range(0, len(split_records), VERIFY_BATCH_SIZE):
        indices = range(start, min(start + VERIFY_BATCH_SIZE, len(split_records)))
        examples = split_records.read_examples(indices)
        for index, example in zip(indices, examples, strict=True):
            if decode_example(next(stored)) != example:
                yield f"record {index} is not where its place says"
            else:
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
