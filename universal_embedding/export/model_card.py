"""Model cards: an export described for people (Markdown) and for `score` (JSON)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from universal_embedding.errors import UserError, printable
from universal_embedding.files import atomic_write
from universal_embedding.reporting.tables import (
    TITLES,
    escape_markdown,
    markdown_table,
    summary_rows,
)
from universal_embedding.training.metric_writer import read_rows
from universal_embedding.versions import library_versions

UNKNOWN_LICENSE = "unknown to this package: check with the publisher of the weights before sharing"
# Licenses under which weights were published, by a part of the backbone's name; the first match.
LICENSES = {
    "dinov3": "DINOv3 License",
    "dinov2": "Apache-2.0",
    "siglip": "Apache-2.0",
    "laion": "MIT",
    "clip_vit": "MIT",
    "efficientnet_lite": "Apache-2.0",
}
LIBRARIES = ("tensorflow", "keras")
_FACTS = ("fingerprint", "checkpoint", "backbone_license", "compatible_with")


def write_model_card(
    path: Path,
    workdir: Path,
    run: Mapping[str, Any],
    export_info: Mapping[str, Any],
    checkpoint: str,
    report: Path | None = None,
) -> Path:
    """Writes the card beside `path` as `.md` and `.json`.

    Args:
        path: The exported zip or SavedModel directory.
        workdir: The run directory, for its validation scores.
        run: The run's config.json, from `training.run_directory.read_config`.
        export_info: `fingerprint`, `embedding_dim`, `weights` and `max_difference` of the export;
            `compatible_with`, if it was aligned.
        checkpoint: `best`, `last` or `initial`.
        report: A `report.json` of an evaluation whose scores are shown, or None.

    Returns:
        The path of the Markdown file.

    Raises:
        UserError: `report` cannot be read.
    """
    backbone = run["config"]["model"]["backbone"]
    card = {
        "name": path.name,
        **export_info,
        "checkpoint": checkpoint,
        "backbone": backbone,
        "backbone_license": f"{license_of(backbone)} (confirm with the publisher)",
        "validation": validation_scores(
            workdir / "metrics.jsonl", checkpoint, run["config"]["best_metric"]
        ),
        "report": read_report(report) if report else None,
        "exported_with": library_versions(LIBRARIES),
        **run,
    }
    json_path, markdown_path = card_paths(path)
    with atomic_write(json_path) as file:
        file.write(json.dumps(card, indent=2) + "\n")
    with atomic_write(markdown_path) as file:
        file.write(to_markdown(card))
    return markdown_path


def card_paths(path: Path) -> tuple[Path, Path]:
    """The JSON and the Markdown file beside an export; a zip `x.zip` and a directory `x` differ."""
    return path.with_name(f"{path.name}.card.json"), path.with_name(f"{path.name}.card.md")


def check_card_unused(path: Path) -> None:
    """Makes sure that no file but an older card of `path` is where its card goes.

    Raises:
        UserError: Another file is in the way.
    """
    json_path, markdown_path = card_paths(path)
    try:
        card = json.loads(json_path.read_text(encoding="utf-8"))
        is_card = card["name"] == path.name and "fingerprint" in card
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        is_card = False
    for taken in (json_path, markdown_path):
        if taken.exists() and not is_card:
            raise UserError(f"{taken} already exists: remove it or name another output")


def license_of(backbone: str) -> str:
    """The license of a backbone's weights, as far as it is known."""
    name = Path(backbone).name.lower()
    if name == "small":
        return "none: trained from scratch"
    return next((text for part, text in LICENSES.items() if part in name), UNKNOWN_LICENSE)


def validation_scores(metrics_file: Path, checkpoint: str, best_metric: str) -> dict[str, float]:
    """Reads the scores of a checkpoint from the run's log.

    Args:
        metrics_file: The run's `metrics.jsonl`.
        checkpoint: `best`: the row with the highest `best_metric`; otherwise the last row.
        best_metric: Such as `val/merged/mean/r_at_1`.

    Returns:
        `step` and every metric of the same evaluation (`val/...`); empty if there was none.
    """
    rows = [row for row in read_rows(metrics_file) if best_metric in row]
    if not rows or checkpoint == "initial":
        return {}
    row = max(rows, key=lambda row: row[best_metric]) if checkpoint == "best" else rows[-1]
    prefix = best_metric.split("/")[0] + "/"
    return {key: v for key, v in row.items() if key == "step" or key.startswith(prefix)}


def to_markdown(card: Mapping[str, Any]) -> str:
    """The card as Markdown, with the front matter of a Hugging Face model card."""
    embedding_dim, size = card["embedding_dim"], card["config"]["model"]["image_size"]
    sections = [
        "---\nlibrary_name: tensorflow\npipeline_tag: image-feature-extraction\n---",
        f"# {escape_markdown(card['name'])}",
        f"Images of any size -> {embedding_dim}-dimensional unit vectors. Backbone "
        f"{_code(card['backbone'])} at {size} pixels; weights stored in {card['weights']}.",
        _key_value_table({k: card[k] for k in _FACTS if k in card}),
        "## Scores",
        "Validation during training (queries of unseen classes):",
        _key_value_table(card["validation"]) if card["validation"] else "none",
    ]
    if card["report"]:
        report = card["report"]
        sections.append(f"{report['dataset']}, split {report['split']}:")
        sections += [markdown_table(summary_rows(report[p])) for p in TITLES if p in report]
    sections += ["## Data", f"Dataset {_code(card['config']['data']['dataset'])}, training split:"]
    domains = card.get("domains", {})
    rows = [[key, f"{d['num_images']:,}", f"{d['num_classes']:,}"] for key, d in domains.items()]
    sections += [markdown_table([["domain", "images", "classes"], *rows])] if rows else []
    sections += [
        "## Versions",
        _key_value_table({"exported with " + k: v for k, v in card["exported_with"].items()}),
        _key_value_table({"trained with " + k: v for k, v in card.get("versions", {}).items()}),
        "## Config",
        "```json\n" + json.dumps(card["config"], indent=2) + "\n```",
    ]
    return "\n\n".join(sections) + "\n"


def _key_value_table(values: Mapping[str, Any]) -> str:
    rows = [
        [key, f"{v:.4f}" if isinstance(v, float) else escape_markdown(v)]
        for key, v in values.items()
    ]
    return markdown_table([["", ""], *rows])


def _code(text: object) -> str:
    return f"`{printable(text).replace('`', chr(39))}`"


def read_report(path: Path) -> dict[str, Any]:
    """Reads the `report.json` of an evaluation.

    Raises:
        UserError: It is missing, or not a report.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(report, dict) or not {"dataset", "split"} <= report.keys():
            raise ValueError("it has no dataset and split")
        return report
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not a report ({error}): give the report.json that "
            "`universal-embedding evaluate` wrote"
        ) from None
