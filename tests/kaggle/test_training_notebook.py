import csv
import json
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
NOTEBOOK = ROOT / "notebooks" / "kaggle_training.ipynb"


def test_notebook_is_valid_and_committed_without_outputs():
    import nbformat

    nbformat.validate(nbformat.read(NOTEBOOK, as_version=4))
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert not any(cell.get("outputs") for cell in cells)


def write_records(folder):
    """The three sets of the challenge in miniature, prepared: two classes of thirty images each."""
    from tests.helpers.layouts import write_image
    from universal_embedding.datasets import prepare
    from universal_embedding.datasets.guie import Guie

    raw = folder / "raw"
    names = [(f"{c}{i:015d}", c) for c in (1, 2) for i in range(30)]
    for name, c in names:
        write_image(raw / f"imagenet/n{c}/{name}.JPEG", c)
        write_image(raw / f"products10k/train/{name}.jpg", c)
        write_image(raw / f"landmarks2021/train/{name[0]}/{name[1]}/{name[2]}/{name}.jpg", c)
    tables = {
        "products10k": [("name", "class", "group"), *((f"{n}.jpg", c, 1) for n, c in names)],
        "landmarks2021": [("id", "landmark_id"), *names],
    }
    for key, rows in tables.items():
        with (raw / key / "train.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    for key in ("imagenet", *tables):
        builder = Guie(key, data_dir=folder / "records", allow_partial=True)
        assert prepare.prepare(builder, raw)


def run_session(work, monkeypatch, **settings):
    """Executes the notebook as one Kaggle session; returns what it printed."""
    import nbformat
    from nbclient import NotebookClient

    work.mkdir()
    for name, value in {**settings, "WORK": str(work)}.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    return "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])
    )


@pytest.mark.slow
def test_notebook_trains_offline_resumes_in_another_session_and_writes_the_zip(
    tmp_path, monkeypatch
):
    from tests.helpers import tiny_presets

    write_records(tmp_path)
    tiny_presets.make_tiny_model("ViTBackbone").save_to_preset(str(tmp_path / "preset"))
    settings = {
        "PACKAGE": str(ROOT),
        "BACKBONE": str(tmp_path / "preset"),
        "IMAGE_SIZE": str(tiny_presets.SIZE),
        "DATA": str(tmp_path / "records"),
        "PREVIOUS": str(tmp_path / "nothing"),
        "RECIPE": "guie:recipe=frozen,runlocal=true",
        "TPU": "",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
        "HF_HUB_OFFLINE": "1",
    }
    printed = run_session(tmp_path / "short", monkeypatch, **settings, HOURS="0")
    assert "not finished" in printed and not (tmp_path / "short" / "submission.zip").exists()

    printed = run_session(tmp_path / "whole", monkeypatch, **settings, HOURS="1")
    assert "submission.zip is ready" in printed and "resuming" not in printed

    settings["PREVIOUS"] = str(tmp_path / "whole")
    printed = run_session(tmp_path / "next", monkeypatch, **settings, HOURS="1")
    assert "resuming" in printed and "starting at step 4 of 4" in printed
    assert "submission.zip is ready" in printed
    config = json.loads((tmp_path / "next" / "run" / "config.json").read_text())["config"]
    assert config["model"]["backbone"] == settings["BACKBONE"]
    assert config["stages"][0]["input"] == "features"
