import json
import zipfile

import numpy as np
import pytest

from tests.helpers.processes import run_cli
from tests.helpers.tiny_model import draw_image
from universal_embedding.errors import UserError
from universal_embedding.export import export, model_card
from universal_embedding.export.embedder import Embedder
from universal_embedding.export.export import export_model
from universal_embedding.training.checkpoints import Checkpoints
from universal_embedding.training.config import base_config
from universal_embedding.training.model import build_model, save_architecture
from universal_embedding.training.run_directory import write_config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(run directory, trained model)."""
    folder = tmp_path_factory.mktemp("run")
    config = base_config()
    config.data.dataset = "tiny"
    config.model.backbone, config.model.image_size = "small", 64
    model = build_model(config)
    model.projection.kernel.assign(model.projection.kernel * 3)
    write_config(folder, config, {"domains": {"cars": {"num_images": 1234, "num_classes": 56}}})
    save_architecture(folder, model)
    state = {"model": [weight.value for weight in model.weights]}
    Checkpoints(folder, state, background=False).save_best(7)
    rows = [{"step": 7, config.best_metric: 0.8}, {"step": 9, config.best_metric: 0.7}]
    lines = [json.dumps(row) for row in [*rows, {"step": 9, "loss": 1.0}]]
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    return folder, model


def test_export_model_writes_zip_saved_model_and_cards(run, tmp_path):
    folder, model = run
    lines = export_model(folder, tmp_path / "submission.zip", tmp_path / "model")
    assert len(lines) >= 4 and "float32 weights" in lines[0]
    images = np.stack([draw_image(30, 50, seed) for seed in range(3)])
    embeddings = Embedder.from_pretrained(tmp_path / "model").encode(images)
    np.testing.assert_allclose(embeddings, model(images), atol=1e-5)
    card = json.loads((tmp_path / "submission.zip.card.json").read_text())
    exported = Embedder.from_pretrained(tmp_path / "submission.zip")
    assert card["fingerprint"] == exported.fingerprint
    assert card["config"]["model"]["backbone"] == "small"
    assert card["validation"] == {"step": 7, "val/merged/mean/r_at_1": 0.8}
    text = (tmp_path / "submission.zip.card.md").read_text()
    for part in ("1,234", "0.8000", "trained from scratch", exported.fingerprint, '"seed": 0'):
        assert part in text
    assert len(zipfile.ZipFile(tmp_path / "submission.zip").namelist()) == 3


def test_run_directory_saved_model_and_zip_have_equal_embeddings(run, tmp_path):
    folder, model = run
    export_model(folder, tmp_path / "submission.zip", tmp_path / "model")
    images = [draw_image(30 + i, 50, i) for i in range(5)]
    expected = np.concatenate([model(image[None], training=False) for image in images])
    embedders = [
        Embedder.from_pretrained(path)
        for path in (folder, tmp_path / "model", tmp_path / "submission.zip")
    ]
    for embedder in embedders:
        np.testing.assert_allclose(embedder.encode(images), expected, atol=1e-5)
        assert (embedder.embedding_dim, embedder.image_size) == (64, 64)
    assert "run directory (best checkpoint)" in repr(embedders[0])
    assert embedders[1].fingerprint == embedders[2].fingerprint != embedders[0].fingerprint
    assert Embedder.from_pretrained(folder).fingerprint == embedders[0].fingerprint
    with pytest.raises(UserError, match="leave image_size out"):
        Embedder.from_pretrained(folder, image_size=96)
    with pytest.raises(UserError, match="no checkpoint 'newest'"):
        Embedder.from_pretrained(folder, checkpoint="newest")


def test_float16_weights_halve_the_zip_and_report_the_difference(run, tmp_path):
    sizes = {}
    for float16 in (False, True):
        path = tmp_path / f"{float16}.zip"
        line = export_model(run[0], path, float16=float16)[0]
        sizes[float16] = path.stat().st_size
    assert sizes[True] < 0.6 * sizes[False]
    difference = json.loads((tmp_path / "True.zip.card.json").read_text())["max_difference"]
    assert 1e-6 < difference < 2e-3
    assert f"float16 weights, differs from the trained model by at most {difference:.1e}" in line


def test_export_model_does_not_overwrite(run, tmp_path):
    (tmp_path / "a.zip").write_text("")
    with pytest.raises(UserError, match="already exists"):
        export_model(run[0], tmp_path / "a.zip")
    with pytest.raises(UserError, match="already exists"):
        export_model(run[0], None, tmp_path)
    with pytest.raises(UserError, match="nothing to write"):
        export_model(run[0])


def test_killed_export_is_absent_and_the_next_one_replaces_its_card(run, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(*_):
        raise Killed

    path, saved_model = tmp_path / "a.zip", tmp_path / "model"
    for moment, num_cards in (("verify_export", 0), ("write_model_card", 0), ("_publish", 2)):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(export, moment, kill)
            export_model(run[0], path, saved_model)
        assert not path.exists() and not saved_model.exists()
        assert len(list(tmp_path.iterdir())) == num_cards
    card = tmp_path / "a.zip.card.json"
    card.write_text(card.read_text().replace("fingerprint", "stale"))
    with pytest.raises(UserError, match=r"a\.zip\.card\.json already exists"):
        export_model(run[0], path)
    card.write_text(card.read_text().replace("stale", "fingerprint"))
    export_model(run[0], path)
    fingerprint = Embedder.from_pretrained(path).fingerprint
    assert json.loads(card.read_text())["fingerprint"] == fingerprint


def test_license_of_known_and_unknown_backbones():
    assert model_card.license_of("hf://timm/vit_dinov3_base") == "DINOv3 License"
    assert model_card.license_of("clip_vit_h_14_laion2b_s32b_b79k") == "MIT"
    assert model_card.license_of("../shared/backbones/efficientnet_lite0.keras") == "Apache-2.0"
    assert model_card.license_of("mystery") == model_card.UNKNOWN_LICENSE


def test_validation_scores_are_those_of_the_checkpoint(run):
    path, metric = run[0] / "metrics.jsonl", "val/merged/mean/r_at_1"
    assert model_card.validation_scores(path, "last", metric) == {"step": 9, metric: 0.7}
    assert model_card.validation_scores(path, "initial", metric) == {}
    assert model_card.validation_scores(run[0] / "none.jsonl", "best", metric) == {}


@pytest.mark.parametrize(
    ("verb", "flags", "message"),
    [
        ("export", ["--workdir=x"], "nothing to write"),
        ("export", ["--output=x.zip"], "--workdir"),
        ("score", ["--solution=x.csv"], "nothing to score"),
        ("score", ["--solution=x.csv", "--submission=x.zip"], "needs --query_dir"),
        ("make-solution", ["--output=x"], "either --folder"),
    ],
)
def test_wrong_flags_are_answered_in_one_line(verb, flags, message):
    code, _, err = run_cli(verb, *flags)
    assert code == 1
    assert err.startswith("error: ") and message in err
    assert len(err.splitlines()) == 1
