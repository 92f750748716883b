import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import universal_embedding
from universal_embedding.errors import UserError
from universal_embedding.export import card
from universal_embedding.export.exporting import export
from universal_embedding.training.checkpoints import Checkpoints
from universal_embedding.training.config import base_config
from universal_embedding.training.model import make_embedder, save_architecture
from universal_embedding.training.work_directory import write_run

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    config = base_config()
    config.data.dataset = "tiny"
    config.model.backbone, config.model.image_size = "small", 64
    embedder = make_embedder(config)
    embedder.projection.kernel.assign(embedder.projection.kernel * 3)
    write_run(folder, config, {"domains": {"cars": {"pictures": 1234, "classes": 56}}})
    save_architecture(folder, embedder)
    state = {"embedder": [weight.value for weight in embedder.weights]}
    Checkpoints(folder, state, background=False).save_best(7)
    rows = [{"step": 7, "merged/mean/r_at_1": 0.8}, {"step": 9, "merged/mean/r_at_1": 0.7}]
    lines = [json.dumps(row) for row in [*rows, {"step": 9, "loss": 1.0}]]
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    return folder, embedder


def test_zip_saved_model_and_cards(workdir, tmp_path, picture):
    folder, embedder = workdir
    lines = export(folder, tmp_path / "submission.zip", tmp_path / "model")
    assert len(lines) == 4 and "float32 weights" in lines[0]
    images = np.stack([picture(30, 50, seed) for seed in range(3)])
    found = universal_embedding.load(tmp_path / "model")(images)
    np.testing.assert_allclose(found, embedder(images), atol=1e-5)
    described = json.loads((tmp_path / "submission.json").read_text())
    model = universal_embedding.load(tmp_path / "submission.zip")
    assert described["fingerprint"] == model.fingerprint
    assert described["config"]["model"]["backbone"] == "small"
    assert described["validation"] == {"step": 7, "merged/mean/r_at_1": 0.8}
    text = (tmp_path / "submission.md").read_text()
    for part in ("1,234", "0.8000", "trained from scratch", model.fingerprint, '"seed": 0'):
        assert part in text
    assert len(zipfile.ZipFile(tmp_path / "submission.zip").namelist()) == 3


def test_float16_weights_halve_the_zip_and_say_what_they_change(workdir, tmp_path):
    sizes = {}
    for float16 in (False, True):
        path = tmp_path / f"{float16}.zip"
        line = export(workdir[0], path, float16=float16)[0]
        sizes[float16] = path.stat().st_size
    assert sizes[True] < 0.6 * sizes[False]
    difference = json.loads((tmp_path / "True.json").read_text())["difference"]
    assert 1e-6 < difference < 2e-3
    assert f"float16 weights, differs from the trained embedder by {difference:.1e}" in line


def test_what_is_there_is_not_overwritten(workdir, tmp_path):
    (tmp_path / "a.zip").write_text("")
    with pytest.raises(UserError, match="already exists"):
        export(workdir[0], tmp_path / "a.zip")
    with pytest.raises(UserError, match="already exists"):
        export(workdir[0], None, tmp_path)


def test_licences():
    assert card.licence("hf://timm/vit_dinov3_base") == "DINOv3 License"
    assert card.licence("clip_vit_h_14_laion2b_s32b_b79k") == "MIT"
    assert card.licence("../shared/backbones/efficientnet_lite0.keras") == "Apache-2.0"
    assert card.licence("mystery") == card.UNKNOWN


@pytest.mark.parametrize(
    ("tool", "flags", "message"),
    [
        ("export", ["--workdir=x"], "nothing to write"),
        ("export", ["--output=x.zip"], "--workdir is missing"),
        ("score", ["--solution=x.csv"], "nothing to score"),
        ("score", ["--solution=x.csv", "--submission=x.zip"], "needs --query_dir"),
        ("make_solution", ["--output=x"], "either --folder"),
    ],
)
def test_tools_answer_wrong_flags_in_one_line(tool, flags, message):
    command = [sys.executable, ROOT / "tools" / f"{tool}.py", *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_importing_the_package_imports_no_tensorflow():
    code = "import universal_embedding, sys; print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False"
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        universal_embedding.lod  # noqa: B018
