"""From a run directory to a verified export with its model card."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from universal_embedding.datasets.image_files import read_image
from universal_embedding.datasets.records import list_prepared_domains, open_records
from universal_embedding.errors import UserError
from universal_embedding.export import networks
from universal_embedding.export.align import align, sample_records
from universal_embedding.export.cost import describe_cost
from universal_embedding.export.model_card import check_card_unused, read_report, write_model_card
from universal_embedding.export.preprocess import preprocess
from universal_embedding.export.saved_model import save_model, to_float32
from universal_embedding.export.verify import verify_export
from universal_embedding.export.zip_archive import write_submission
from universal_embedding.files import (
    as_path,
    is_remote,
    list_directory,
    scratch_directory,
    sync_directory,
    upload_directory,
)
from universal_embedding.models.backbones import split_spec
from universal_embedding.training.checkpoints import load_embedding_model
from universal_embedding.training.run_directory import read_config

NUM_REPRESENTATIVE_IMAGES = 200  # for int8


def export_model(
    workdir: str | Path,
    zip_path: str | Path | None = None,
    saved_model_dir: str | Path | None = None,
    checkpoint: str = "best",
    float16: bool = False,
    report: str | Path | None = None,
    compatible_with: str | Path | None = None,
    data_dir: str | Path | None = None,
    dimension: int | None = None,
    network_paths: Mapping[str, str | Path] | None = None,
    quantization: str = "none",
) -> list[str]:
    """Writes a submission zip, a SavedModel, networks for other runtimes, and a card beside each.

    Each export is written and verified under a temporary name, for gs:// on a local disk. Its card
    appears first, then the export itself: whole, or not there.

    Args:
        workdir: The run directory.
        zip_path: The zip to write, or None.
        saved_model_dir: The SavedModel directory to write, or None.
        checkpoint: `best`, `last` or `initial`.
        float16: Store kernels in float16.
        report: `report.json` of an evaluation to show on the card, or None.
        compatible_with: A run directory or export whose index the model is to search: its last
            layer is mapped into that model's space. See `align.fit`.
        data_dir: Directory of the prepared images that this map is fitted on; None: the run's.
        dimension: Export only so many of the first dimensions, as unit vectors; None: all.
        network_paths: Files to write by kind: `onnx`, `litert`, `openvino`. See `networks`.
        quantization: Of `litert`; `int8` measures ranges on training images in `data_dir`.

    Returns:
        Lines that name the written files and their difference from the trained model, and give the
        cost of the model.

    Raises:
        UserError: There is no such run, nothing to write, a file is in the way, the embedding has
            too many dimensions for a submission, or the export differs from the trained model.
    """
    targets = {
        kind: as_path(path)
        for kind, path in {
            "zip": zip_path,
            "saved_model": saved_model_dir,
            **(network_paths or {}),
        }.items()
        if path
    }
    if not targets:
        raise UserError("nothing to write: give zip_path, saved_model_dir or network_paths")
    if len({os.path.realpath(target) for target in targets.values()}) < len(targets):
        names = ", ".join(map(str, targets.values()))
        raise UserError(f"two of the outputs are one: {names}; name different ones")
    for kind, target in targets.items():
        _check_unused(kind, target)
    report_path = as_path(report) if report else None
    if report_path:
        read_report(report_path)
    folder = as_path(workdir)
    run = read_config(folder)
    model = to_float32(load_embedding_model(folder, checkpoint))
    lines, extra_info = [], {}
    if dimension and compatible_with:
        raise UserError("--dimension and --compatible_with do not go together: leave one out")
    if dimension:
        model = model.with_dimension(dimension)
    if compatible_with:
        alignment = align(model, compatible_with, run, data_dir)
        extra_info = {"compatible_with": alignment.describe(as_path(compatible_with).name)}
        lines.append(extra_info["compatible_with"])
    with contextlib.ExitStack() as stack:
        staged = {kind: stack.enter_context(_stage(target)) for kind, target in targets.items()}
        if "zip" in staged:
            write_submission(model, staged["zip"], staged.get("saved_model"), float16)
        elif "saved_model" in staged:
            save_model(model, staged["saved_model"], float16)
        for kind in networks.SUFFIXES.keys() & staged.keys():
            images = _representative_images(run, data_dir) if quantization == "int8" else ()
            networks.write_network(model, staged[kind], kind, quantization, images)
        checks = {kind: verify_export(model, path) for kind, path in staged.items()}
        for kind, check in checks.items():
            check.refuse_if_different(targets[kind], _weights(kind, float16, quantization))
        for kind, target in targets.items():
            check, path = checks[kind], staged[kind]
            weights = _weights(kind, float16, quantization)
            export_info = {
                "fingerprint": check.fingerprint,
                "embedding_dim": model.output_dim,
                "weights": weights,
                "max_difference": check.max_difference,
                **extra_info,
            }
            size = sum(p.stat().st_size for p in [path, *path.rglob("*")] if p.is_file())
            _check_unused(kind, target)
            card = write_model_card(target, folder, run, export_info, checkpoint, report_path)
            if kind in networks.SUFFIXES:
                _publish(networks.settings_path(path), networks.settings_path(target))
            if kind == "openvino":
                _publish(path.with_suffix(".bin"), target.with_suffix(".bin"))
            _publish(path, target)
            lines.append(
                f"{target}: {size / 1e6:.1f} MB, {weights} weights, differs from the trained model "
                f"by at most {check.max_difference:.1e} (minimum cosine {check.min_cosine:.6f})"
            )
            lines.append(f"{card}: model card")
    backbones = split_spec(run["config"]["model"]["backbone"])
    return [*lines, *describe_cost(model, [Path(name).name for name in backbones])]


def _weights(kind: str, float16: bool, quantization: str) -> str:
    """Names the type in which an export stores its weights."""
    if kind in networks.SUFFIXES:
        return "float32" if quantization == "none" else quantization
    return "float16" if float16 else "float32"


def _representative_images(
    run: Mapping[str, Any], data_dir: str | Path | None
) -> Iterator[np.ndarray]:
    """Training images as a network takes them, equally many of each domain."""
    data, model = run["config"]["data"], run["config"]["model"]
    data_dir = data_dir or run["data_dir"]
    domains = data["domains"] or list_prepared_domains(data_dir, data["dataset"])
    records = {key: open_records(data_dir, data["dataset"], key, "train") for key in domains}
    for part in sample_records(records, NUM_REPRESENTATIVE_IMAGES):
        for image in part.read(range(len(part))):
            yield preprocess(read_image(image), model)


def _check_unused(kind: str, target: epath.Path) -> None:
    """A card without its export is what a killed export left, and may be replaced."""
    taken = bool(list_directory(target)) if target.is_dir() and kind != "zip" else target.exists()
    if taken:
        raise UserError(f"{target} already exists: remove it or name another output")
    check_card_unused(target)


@contextlib.contextmanager
def _stage(target: epath.Path) -> Iterator[Path]:
    """A path of the same name in a temporary directory, local, beside a local target."""
    if is_remote(target):
        with tempfile.TemporaryDirectory() as scratch:
            yield Path(scratch, target.name)
    else:
        with scratch_directory(target) as scratch:
            yield scratch / target.name


def _publish(staged: Path, target: epath.Path) -> None:
    if is_remote(target):
        upload_directory(staged.parent, target.parent)
    else:
        path = Path(os.path.realpath(target))
        staged.rename(path)
        sync_directory(path.parent)
