"""A Kaggle submission: an embedder's SavedModel in a zip."""

import tempfile
from pathlib import Path

from universal_embedding.errors import UserError
from universal_embedding.export import archive, saved_model
from universal_embedding.export.competition import MAX_DIMENSION
from universal_embedding.models.embedder import Embedder


def write(
    embedder: Embedder,
    path: str | Path,
    directory: str | Path | None = None,
    float16: bool = False,
) -> None:
    """Writes the zip at `path` and, where `directory` is given, leaves its SavedModel there.

    Raises:
        UserError: The embedding has more than 64 dimensions, or something stands in the way.
    """
    path = Path(path)
    dimension = embedder.output_dimension
    if dimension > MAX_DIMENSION:
        raise UserError(
            f"the embedding has {dimension} dimensions and a submission at most {MAX_DIMENSION}: "
            "train a projection of that size, or export with --saved_model alone"
        )
    if path.exists():
        raise UserError(f"{path} already exists: remove it or name another file")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        directory = Path(directory or Path(scratch) / "saved_model")
        saved_model.save(embedder, directory, float16)
        archive.pack(directory, Path(scratch) / path.name)
        (Path(scratch) / path.name).rename(path)
