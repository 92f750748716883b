"""The groups of near-duplicates as one HTML file: no script, nothing loaded, images inside."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from universal_embedding.datasets.image_files import read_image
from universal_embedding.errors import UserError
from universal_embedding.files import atomic_write

MAX_GROUPS, MAX_IMAGES = 200, 24  # shown; the JSON report has all
_SIDE = 160  # pixels


def write_duplicates_page(
    report: dict[str, Any], paths: Sequence[Sequence[Path | None]], path: str | Path
) -> None:
    """Writes the page.

    Args:
        report: Of `app.duplicates.make_report`.
        paths: Files of the images of each group, None where there is none.
        path: The file to write.
    """
    loader = jinja2.PackageLoader("universal_embedding.reporting")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals["css"] = loader.get_source(environment, "report.css")[0]
    groups = [
        {
            **group,
            "tiles": [
                {"name": name, "url": _thumbnail(file)}
                for name, file in zip(group["names"][:MAX_IMAGES], files, strict=False)
            ],
            "num_hidden": max(0, len(group["names"]) - MAX_IMAGES),
        }
        for group, files in zip(report["groups"][:MAX_GROUPS], paths, strict=False)
    ]
    page = environment.get_template("duplicates.html.j2").render(
        report=report, groups=groups, num_hidden=max(0, len(report["groups"]) - MAX_GROUPS)
    )
    with atomic_write(path) as file:
        file.write(page)


def _thumbnail(path: Path | None) -> str:
    """A data URL; empty if the file cannot be read."""
    if path is None:
        return ""
    try:
        image = Image.fromarray(read_image(path))
    except (UserError, OSError):
        return ""
    image.thumbnail((_SIDE, _SIDE))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
