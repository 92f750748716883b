"""The model card: what a submission is, for people (Markdown) and for tools/score.py (JSON)."""

import importlib.metadata
import json
import platform
from pathlib import Path

from universal_embedding import __version__

UNKNOWN = "unknown here: look it up where its weights come from, before you share the model"
# Licences of published weights, by a part of the backbone's name; the first that fits.
LICENCES = {
    "dinov3": "DINOv3 License (Meta)",
    "dinov2": "Apache-2.0",
    "dino": "Apache-2.0",
    "siglip": "Apache-2.0",
    "laion": "MIT",
    "clip_vit": "MIT",
    "efficientnet_lite": "Apache-2.0",
}


def write(path: Path, run: dict, facts: dict) -> None:
    """Writes `path` with suffixes `.json` and `.md`.

    Args:
        path: The submission or SavedModel; the card lies beside it.
        run: What `training.work_directory.read_run` gives.
        facts: `fingerprint`, `dimension`, `weights` and other facts of the export.
    """
    card = {
        "name": path.name,
        **facts,
        **run,
        "backbone_licence": licence(run["config"]["model"]["backbone"]),
        "exported_with": _versions(),
    }
    path.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(markdown(card), encoding="utf-8")


def licence(backbone: str) -> str:
    """The licence of a backbone's weights, as far as it is known."""
    name = Path(backbone).name.lower()
    if name == "small":
        return "none: trained from scratch"
    return next((text for part, text in LICENCES.items() if part in name), UNKNOWN)
