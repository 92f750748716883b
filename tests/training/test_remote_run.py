"""A run directory, its models and its reports on a file system that only TensorFlow opens."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.killing import train_until_killed
from tests.helpers.ram import enable_ram_paths
from universal_embedding.export.embedder import Embedder
from universal_embedding.export.export import export_model
from universal_embedding.export.pretrained import read_fingerprint
from universal_embedding.files import as_path, list_directory
from universal_embedding.models.backbones import load_backbone
from universal_embedding.training.checkpoints import load_embedding_model
from universal_embedding.training.config import stage
from universal_embedding.training.experiment import Experiment
from universal_embedding.training.growing_files import GrowingFiles
from universal_embedding.training.hooks import default_hooks
from universal_embedding.training.metric_writer import read_rows
from universal_embedding.training.run_directory import write_config
from universal_embedding.training.trainer import train

enable_ram_paths()
RATES = {"projection_lr": 1e-2, "head_lr": 1e-2}


@pytest.mark.slow
def test_remote_run_resumes_exactly_and_is_used_like_a_local_one(
    make_experiment, config, records, tmp_path, monkeypatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    config.optimizer.ema_decay = 0.9
    config.stages = (
        stage(steps=5, input="features", **RATES),
        stage(steps=5, backbone_lr=1e-2, **RATES),
    )
    workdir = as_path("ram://bucket/runs/remote")

    def make_remote(name="remote", **changes):
        remote = config.copy_and_resolve_references()
        remote.update(changes)
        experiment = Experiment.from_config(
            remote, records, workdir.with_name(name), tf.distribute.get_strategy()
        )
        write_config(experiment.workdir, remote, experiment.data_summary())
        return experiment

    train_until_killed(make_remote(), 8)
    train(make_remote(), default_hooks(make_remote()))
    local = make_experiment("local")
    train(local, default_hooks(local))
    write_config(local.workdir, local.config, local.data_summary())
    trained = load_embedding_model(workdir)
    for actual, expected in zip(
        trained.weights, load_embedding_model(local.workdir).weights, strict=True
    ):
        np.testing.assert_array_equal(actual, expected)
    assert [row["step"] for row in read_rows(workdir / "metrics.jsonl")] == [5, 10]
    assert list_directory(workdir / "events")
    assert not list(tmp_path.rglob("ram:*")) and not (workdir / "features").exists()

    # Others start from it, export it and load it.
    start = make_remote("next", init_from=str(workdir))
    train(start, [])
    bucket = as_path("ram://bucket/exports")
    lines = export_model(workdir, zip_path=bucket / "m.zip", saved_model_dir=bucket / "m" / "saved")
    assert lines[0].startswith("ram://bucket/exports/m.zip: ")
    images = np.random.default_rng(0).integers(0, 256, (3, 20, 24, 3), np.uint8)
    expected = Embedder.from_pretrained(local.workdir).encode(list(images))
    for path in (workdir, bucket / "m.zip", bucket / "m" / "saved"):
        np.testing.assert_allclose(
            Embedder.from_pretrained(path).encode(list(images)), expected, atol=1e-5
        )
    assert read_fingerprint(bucket / "m.zip") == read_fingerprint(bucket / "m" / "saved")


def test_backbone_file_may_be_remote(tiny_backbone):
    path = as_path("ram://bucket/backbones/tiny.keras")
    path.parent.mkdir(parents=True)
    path.write_bytes(tiny_backbone.read_bytes())
    remote, local = (load_backbone(str(p), 16) for p in (path, tiny_backbone))
    images = np.random.default_rng(1).uniform(0, 255, (2, 16, 16, 3)).astype(np.float32)
    np.testing.assert_array_equal(remote(images), local(images))


@pytest.mark.parametrize("workdir", ["local", "ram://bucket/growing"])
def test_growing_files_are_copied_by_time_and_at_the_end(workdir, tmp_path):
    workdir = as_path(tmp_path if workdir == "local" else workdir)
    files = GrowingFiles(workdir, every_seconds=0.0)
    with (files.folder / "a.jsonl").open("a") as file:
        for i in range(3):
            file.write(json.dumps({"step": i}) + "\n")
            file.flush()
            files.copy_when_due()
            assert len((workdir / "a.jsonl").read_text().splitlines()) == i + 1
    files._every_seconds = 1e9
    (files.folder / "a.jsonl").open("a").write("{}\n")
    files.copy_when_due()
    files.close()
    assert (workdir / "a.jsonl").read_text().endswith("}\n{}\n")
