"""From a work directory to a checked export with its card."""

from pathlib import Path

from universal_embedding.errors import UserError
from universal_embedding.export import card, saved_model, self_check, submission
from universal_embedding.training.checkpoints import load_embedder
from universal_embedding.training.work_directory import read_run


def export(
    workdir: str | Path,
    output: str | Path | None,
    directory: str | Path | None = None,
    checkpoint: str = "best",
    float16: bool = False,
    report: str | Path | None = None,
) -> list[str]:
    """Writes a submission, a SavedModel or both, and a model card beside each.

    Args:
        workdir: The run's folder.
        output: The zip, or None.
        directory: The SavedModel's directory, or None.
        checkpoint: `best` or `last`.
        float16: Keep kernels in float16.
        report: `report.json` of tools/evaluate.py for the card, or None.

    Returns:
        Lines that tell what was written, and how it differs from the trained embedder.

    Raises:
        UserError: There is no such run, something stands in the way, or the embedding has too many
            dimensions for a submission.
    """
    workdir = Path(workdir)
    run = read_run(workdir)
    embedder = saved_model.in_float32(load_embedder(workdir, checkpoint))
    if output:
        submission.write(embedder, output, directory, float16)
    else:
        saved_model.save(embedder, directory, float16)
    lines = []
    for path in map(Path, filter(None, (output, directory))):
        found = self_check.compare(embedder, path)
        if not float16 and found.difference > self_check.TOLERANCE:
            raise UserError(
                f"{path} differs from the trained embedder by {found.difference:.1e}: do not use "
                "it, and report this with the config"
            )
        facts = {
            "fingerprint": found.fingerprint,
            "dimension": embedder.output_dimension,
            "weights": "float16" if float16 else "float32",
            "difference": found.difference,
        }
        described = card.write(
            path, workdir, run, facts, checkpoint, Path(report) if report else None
        )
        size = sum(p.stat().st_size for p in [path, *path.rglob("*")] if p.is_file())
        lines.append(
            f"{path}: {size / 1e6:.1f} MB, {facts['weights']} weights, differs from the trained "
            f"embedder by {found.difference:.1e} at most (lowest cosine {found.cosine:.6f})"
        )
        lines.append(f"{described}: model card")
    return lines
