import dataclasses
import json
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
NOTEBOOK = ROOT / "notebooks" / "kaggle_submission.ipynb"


def test_notebook_is_valid_and_committed_without_outputs():
    import nbformat

    nbformat.validate(nbformat.read(NOTEBOOK, as_version=4))
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert not any(cell.get("outputs") for cell in cells)


@pytest.mark.slow
def test_notebook_runs_offline_on_synthetic_images_and_a_saved_preset(tmp_path, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    from examples.demo_data import DOMAINS, render_domains
    from tests.helpers import tiny_presets

    num_classes = {"train": 6, "val": 3, "test": 3}
    domains = [dataclasses.replace(d, num_photos=5, num_classes=num_classes) for d in DOMAINS[:2]]
    render_domains(tmp_path / "images", domains=domains)
    tiny_presets.make_tiny_model("ViTBackbone").save_to_preset(str(tmp_path / "preset"))
    (tmp_path / "work").mkdir()
    settings = {
        "PACKAGE": str(ROOT),
        "BACKBONE": str(tmp_path / "preset"),
        "IMAGE_SIZE": str(tiny_presets.SIZE),
        "IMAGES": str(tmp_path / "images"),
        "STEPS": "20",
        "WORK": str(tmp_path / "work"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
        "HF_HUB_OFFLINE": "1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    printed = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])
    )
    assert "mP@5" in printed and "submission.zip is ready" in printed
    entry = json.loads((tmp_path / "work" / "competition" / "leaderboard.jsonl").read_text())
    assert entry["config"]["model"]["backbone"] == settings["BACKBONE"]
