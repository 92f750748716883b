"""The model card: what an export is, for people (Markdown) and for tools/score.py (JSON)."""

import importlib.metadata
import json
import platform
from pathlib import Path

from universal_embedding import __version__
from universal_embedding.errors import UserError
from universal_embedding.retrieval import report as reports

UNKNOWN = "not known to this package: look it up where the weights come from before sharing"
# Licences under which weights were published, by a part of the backbone's name; the first fits.
LICENCES = {
    "dinov3": "DINOv3 License",
    "dinov2": "Apache-2.0",
    "siglip": "Apache-2.0",
    "laion": "MIT",
    "clip_vit": "MIT",
    "efficientnet_lite": "Apache-2.0",
}
BEST_BY = "merged/mean/r_at_1"


def write(
    path: Path, workdir: Path, run: dict, facts: dict, checkpoint: str, report: Path | None
) -> Path:
    """Writes the card beside `path` as `.md` and `.json`; gives the Markdown's path.

    Args:
        path: The zip or the SavedModel's directory.
        workdir: The run's folder, for its validation scores.
        run: What `training.work_directory.read_run` gives.
        facts: Of the export: `fingerprint`, `dimension`, `weights` and the like.
        checkpoint: `best` or `last`.
        report: A `report.json` of tools/evaluate.py whose scores are to be shown, or None.

    Raises:
        UserError: `report` cannot be read.
    """
    backbone = run["config"]["model"]["backbone"]
    card = {
        "name": path.name,
        **facts,
        "checkpoint": checkpoint,
        "backbone": backbone,
        "backbone_licence": f"{licence(backbone)} (confirm with the publisher)",
        "validation": validation(workdir / "metrics.jsonl", checkpoint),
        "report": _read(report) if report else None,
        "exported_with": _versions(),
        **run,
    }
    base = path.with_suffix("") if path.suffix == ".zip" else path
    as_json, as_markdown = (base.with_name(base.name + suffix) for suffix in (".json", ".md"))
    as_json.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    as_markdown.write_text(markdown(card), encoding="utf-8")
    return as_markdown


def licence(backbone: str) -> str:
    """The licence of a backbone's weights, as far as it is known."""
    name = Path(backbone).name.lower()
    if name == "small":
        return "none: trained from scratch"
    return next((text for part, text in LICENCES.items() if part in name), UNKNOWN)


def validation(metrics: Path, checkpoint: str) -> dict[str, float]:
    """The validation's row of `metrics.jsonl` that belongs to the checkpoint; empty if none."""
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    rows = [row for row in map(json.loads, lines) if BEST_BY in row]
    if not rows:
        return {}
    row = max(rows, key=lambda row: row[BEST_BY]) if checkpoint == "best" else rows[-1]
    return {k: v for k, v in row.items() if k == "step" or k.startswith("merged/")}


def markdown(card: dict) -> str:
    """The card for people."""
    dimension, size = card["dimension"], card["config"]["model"]["image_size"]
    parts = [
        f"# {card['name']}",
        f"Pictures of any size -> {dimension}-dimensional unit vectors. Backbone "
        f"`{card['backbone']}` at {size} pixels; weights kept in {card['weights']}.",
        _table({k: card[k] for k in ("fingerprint", "checkpoint", "backbone_licence")}),
        "## Scores",
        "Validation while training (queries of unseen classes):",
        _table(card["validation"]) if card["validation"] else "none",
    ]
    if card["report"]:
        given = card["report"]
        parts += [f"{given['dataset']}, split {given['split']}:"]
        parts += [reports.markdown(reports.rows(given[p])) for p in reports.TITLES if p in given]
    parts += ["## Data", f"Data set `{card['config']['data']['dataset']}`, training split:"]
    domains = card.get("domains", {})
    rows = [[key, f"{d['pictures']:,}", f"{d['classes']:,}"] for key, d in domains.items()]
    parts += [reports.markdown([["domain", "pictures", "classes"], *rows])] if rows else []
    parts += [
        "## Versions",
        _table({"exported with " + k: v for k, v in card["exported_with"].items()}),
        _table({"trained with " + k: v for k, v in card.get("versions", {}).items()}),
        "## Config",
        "```json\n" + json.dumps(card["config"], indent=2) + "\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _table(facts: dict) -> str:
    rows = [[key, f"{v:.4f}" if isinstance(v, float) else str(v)] for key, v in facts.items()]
    return reports.markdown([["", ""], *rows])


def _read(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} is no report ({error}): give the report.json that tools/evaluate.py wrote"
        ) from None


def _versions() -> dict[str, str]:
    versions = {"universal_embedding": __version__, "python": platform.python_version()}
    for name in ("tensorflow", "keras"):
        versions[name] = importlib.metadata.version(name)
    return versions
