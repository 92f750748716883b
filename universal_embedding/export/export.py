"""From a run directory to a verified export with its model card."""

import os
import tempfile
from pathlib import Path

from universal_embedding.errors import UserError
from universal_embedding.export.model_card import card_paths, read_report, write_model_card
from universal_embedding.export.saved_model import save_model, to_float32
from universal_embedding.export.verify import TOLERANCE, verify_export
from universal_embedding.export.zip_archive import write_submission
from universal_embedding.files import as_path, is_remote, upload_directory
from universal_embedding.training.checkpoints import load_embedding_model
from universal_embedding.training.run_directory import read_config


def export_model(
    workdir: str | Path,
    zip_path: str | Path | None = None,
    saved_model_dir: str | Path | None = None,
    checkpoint: str = "best",
    float16: bool = False,
    report: str | Path | None = None,
) -> list[str]:
    """Writes a submission zip, a SavedModel or both, and a model card beside each.

    An export to gs:// is written and verified on a local disk, and then uploaded.

    Args:
        workdir: The run directory.
        zip_path: The zip to write, or None.
        saved_model_dir: The SavedModel directory to write, or None.
        checkpoint: `best`, `last` or `initial`.
        float16: Store kernels in float16.
        report: `report.json` of an evaluation to show on the card, or None.

    Returns:
        Lines that name the written files and their difference from the trained model.

    Raises:
        UserError: There is no such run, nothing to write, a file is in the way, the embedding has
            too many dimensions for a submission, or the export differs from the trained model.
    """
    targets = [as_path(path) for path in (zip_path, saved_model_dir) if path]
    if not targets:
        raise UserError("nothing to write: give zip_path, saved_model_dir or both")
    for path in targets:
        for taken in (path, *card_paths(path)) if is_remote(path) else card_paths(path):
            if taken.exists():
                raise UserError(f"{taken} already exists: remove it or name another output")
    if (
        zip_path
        and saved_model_dir
        and os.path.realpath(zip_path) == os.path.realpath(saved_model_dir)
    ):
        raise UserError(f"the zip and the SavedModel are both {zip_path}: name two outputs")
    with tempfile.TemporaryDirectory() as scratch:
        local = [
            Path(scratch, str(i), target.name) if is_remote(target) else Path(target)
            for i, target in enumerate(targets)
        ]
        paths = iter(local)
        lines = _export(
            as_path(workdir),
            next(paths) if zip_path else None,
            next(paths) if saved_model_dir else None,
            checkpoint,
            float16,
            as_path(report) if report else None,
        )
        for path, target in zip(local, targets, strict=True):
            if is_remote(target):
                upload_directory(path.parent, target.parent)
                lines = [line.replace(str(path.parent), str(target.parent)) for line in lines]
    return lines


def _export(
    workdir: Path,
    zip_path: Path | None,
    saved_model_dir: Path | None,
    checkpoint: str,
    float16: bool,
    report: Path | None,
) -> list[str]:
    """`export_model` to local paths."""
    if report:
        read_report(report)
    run = read_config(workdir)
    model = to_float32(load_embedding_model(workdir, checkpoint))
    if zip_path:
        write_submission(model, zip_path, saved_model_dir, float16)
    elif saved_model_dir:
        save_model(model, saved_model_dir, float16)
    lines = []
    for path in filter(None, (zip_path, saved_model_dir)):
        check = verify_export(model, path)
        if not float16 and check.max_difference > TOLERANCE:
            raise UserError(
                f"{path} differs from the trained model by {check.max_difference:.1e}: do not use "
                "it, and report this with the config"
            )
        weights = "float16" if float16 else "float32"
        export_info = {
            "fingerprint": check.fingerprint,
            "embedding_dim": model.output_dim,
            "weights": weights,
            "max_difference": check.max_difference,
        }
        card = write_model_card(path, workdir, run, export_info, checkpoint, report)
        size = sum(p.stat().st_size for p in [path, *path.rglob("*")] if p.is_file())
        lines.append(
            f"{path}: {size / 1e6:.1f} MB, {weights} weights, differs from the trained model by at "
            f"most {check.max_difference:.1e} (minimum cosine {check.min_cosine:.6f})"
        )
        lines.append(f"{card}: model card")
    return lines
