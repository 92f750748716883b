"""Exports whose embeddings search the index of an older model."""

import json

import keras
import numpy as np
import pytest

from tests.helpers.evaluated import make_eval_sets, make_records
from tests.helpers.layouts import write_uned_layout
from tests.helpers.processes import run_cli
from universal_embedding.errors import UserError
from universal_embedding.evaluation.embed import EmbeddingSource
from universal_embedding.export.align import fit, fold, sample_records
from universal_embedding.export.embedder import Embedder
from universal_embedding.models.embedding_model import EmbeddingModel
from universal_embedding.training.checkpoints import Checkpoints
from universal_embedding.training.config import base_config
from universal_embedding.training.model import build_model, save_architecture
from universal_embedding.training.run_directory import write_config


def rotation(size, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))[0]


def make_source(name, matrix, noise=0.0, seed=0):
    """Embeds classes and domains near axes of their own, then maps them by `[8, D]` `matrix`."""

    def embed(records):
        rng = np.random.default_rng([len(records.domain), len(records), len(records.split)])
        rows = np.eye(6, 8)[records.labels.values] + 0.2 * rng.standard_normal((len(records), 8))
        rows[:, 6 if records.domain == "a" else 7] += 1
        rows += noise * np.random.default_rng(seed).standard_normal(rows.shape)
        return (rows @ matrix).astype(np.float32)

    return EmbeddingSource(name, embed)


def train_records():
    return {key: make_records(key, np.arange(60) % 6, "train") for key in ("a", "b")}


def test_rotated_model_gets_the_old_scores_back():
    old = make_source("old", np.eye(8))
    new = make_source("new", rotation(8))
    result = fit(new, old, train_records(), make_eval_sets())
    np.testing.assert_allclose(result.matrix, rotation(8).T, atol=1e-6)
    scores = result.scores
    assert result.method == "procrustes" and result.num_images == 120
    assert scores["new/old"] == scores["new/new"] == scores["old/old"] > 0.5
    assert scores["new/old (before)"] < scores["old/old"] - 0.3
    assert f"new/old {scores['new/old']:.4f}" in result.describe("runs/old")


def test_stretched_model_takes_the_linear_map():
    stretch = np.diag([6, 3, 1, 0.5, 0.3, 0.2, 1, 1])
    old = make_source("old", stretch)
    new = make_source("new", rotation(8))
    result = fit(new, old, train_records(), make_eval_sets())
    assert result.method == "linear"
    assert result.scores["new/old"] > result.scores["new/old (before)"]


def test_models_of_other_sizes_are_refused():
    old, new = make_source("old", np.eye(8)), make_source("new", np.eye(8)[:, :4])
    with pytest.raises(UserError, match="new has 4 dimensions and old 8"):
        fit(new, old, train_records(), make_eval_sets())


@pytest.mark.parametrize(("limit", "sizes"), [(100, [30, 60]), (60, [30, 30]), (7, [3, 4])])
def test_sample_has_equally_many_images_of_each_domain(limit, sizes):
    records = {"a": make_records("a", [0] * 30), "b": make_records("b", [0] * 60)}
    sample = sample_records(records, limit)
    assert [len(r) for r in sample] == sizes
    assert all(len(set(r.image_ids)) == len(r) for r in sample)


@pytest.mark.parametrize("bias", [False, True])
def test_folded_rotation_rotates_embeddings_and_changes_no_norm(bias):
    layers = [keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(12)]
    model = EmbeddingModel(keras.Sequential(layers), 5, image_size=8, projection_bias=bias)
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3)).astype(np.float32)
    if bias:
        model.projection.bias.assign(np.arange(5) * 0.1)
    features = model.features(images)
    before, outputs = model(images).numpy(), model.project(features).numpy()
    fold(model, rotation(5))
    np.testing.assert_allclose(model(images), before @ rotation(5), atol=1e-6)
    norms = np.linalg.norm(model.project(features), axis=1)
    np.testing.assert_allclose(norms, np.linalg.norm(outputs, axis=1), rtol=1e-5)


def test_model_without_projection_cannot_be_aligned():
    layers = [keras.Input((8, 8, 3)), keras.layers.Flatten()]
    model = EmbeddingModel(keras.Sequential(layers), None, image_size=8)
    with pytest.raises(UserError, match="has no projection"):
        fold(model, np.eye(192))


def save_run(folder, data_dir, matrix):
    config = base_config()
    config.data.dataset = "tiny"
    config.model.update(backbone="small", image_size=32, embedding_dim=8)
    model = build_model(config)
    kernel = model.projection.kernel
    kernel.assign(kernel.numpy() @ matrix)
    write_config(folder, config, {"data_dir": str(data_dir)})
    save_architecture(folder, model)
    state = {"model": [weight.value for weight in model.weights]}
    Checkpoints(folder, state, background=False).save_best(1)


@pytest.mark.slow
def test_export_speaks_the_space_of_the_older_model(tmp_path):
    for domain in ("birds", "toys"):
        splits = {"train": 24, "val": 12, "test": 4}
        images = {
            split: [(f"{domain}/{split}/{i}.jpg", i % 4) for i in range(count)]
            for split, count in splits.items()
        }
        write_uned_layout(tmp_path / "tiny", domain, images)
    data = tmp_path / "data"
    flags = f"--manual_dir={tmp_path / 'tiny'}", f"--data_dir={data}"
    assert run_cli("prepare", *flags)[0] == 0
    save_run(tmp_path / "old", data, np.eye(8))
    save_run(tmp_path / "new", data, rotation(8))
    code, out, err = run_cli(
        "export",
        f"--workdir={tmp_path / 'new'}",
        f"--saved_model={tmp_path / 'aligned'}",
        f"--compatible_with={tmp_path / 'old'}",
    )
    assert code == 0, err[-3000:]
    assert "aligned with old (procrustes, 48 training images); validation, merged R@1:" in out
    images = np.random.default_rng(0).integers(0, 256, (5, 40, 30, 3), np.uint8)
    expected = Embedder.from_pretrained(tmp_path / "old").encode(images)
    aligned = Embedder.from_pretrained(tmp_path / "aligned").encode(images)
    np.testing.assert_allclose(aligned, expected, atol=1e-4)
    card = json.loads((tmp_path / "aligned.card.json").read_text())
    assert card["compatible_with"] in out
    assert "aligned with old" in (tmp_path / "aligned.card.md").read_text()
