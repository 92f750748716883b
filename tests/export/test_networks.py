"""Exports for other runtimes: ONNX and LiteRT files, and what prepares images for them."""

import json

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.layouts import write_uned_layout
from tests.helpers.processes import run_cli
from tests.helpers.tiny_model import build_model, draw_image
from universal_embedding.errors import UserError
from universal_embedding.export import networks
from universal_embedding.export.embedder import Embedder
from universal_embedding.export.preprocess import preprocess
from universal_embedding.export.verify import ExportCheck
from universal_embedding.input.resizing import RESIZE_MODES, resize
from universal_embedding.training.checkpoints import Checkpoints
from universal_embedding.training.config import base_config
from universal_embedding.training.model import build_model as build_run_model
from universal_embedding.training.model import save_architecture
from universal_embedding.training.run_directory import write_config


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from(RESIZE_MODES), st.integers(2, 60))
def test_preprocess_equals_the_resize_of_the_graph(height, width, mode, size):
    image = draw_image(height, width, seed=height + width)
    expected = resize(tf.constant(image), size, mode)
    actual = preprocess(image, {"image_size": size, "resize_mode": mode})
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, atol=0.02)


def write(model, path, **options):
    kind = {suffix: kind for kind, suffix in networks.SUFFIXES.items()}[path.suffix]
    networks.write_network(model, path, kind, **options)
    return Embedder.from_pretrained(path)


def assert_embeds_like(model, embedder, least_cosine):
    images = [draw_image(30 + 9 * i, 50, i) for i in range(6)]
    expected = np.concatenate([model(image[None], training=False) for image in images])
    rows = embedder.encode(images, batch_size=4)
    assert (rows * expected).sum(1).min() > least_cosine
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-3)
    assert (embedder.embedding_dim, embedder.image_size) == (64, model.image_size)


@pytest.mark.parametrize("mode", ["squash", "pad"])
def test_onnx_network_embeds_like_the_model(tmp_path, mode):
    pytest.importorskip("tf2onnx")
    onnx = pytest.importorskip("onnx")
    model = build_model(resize_mode=mode)
    embedder = write(model, tmp_path / "model.onnx")
    assert_embeds_like(model, embedder, 0.99999)
    described = onnx.load(tmp_path / "model.onnx")
    versions = {opset.domain: opset.version for opset in described.opset_import}
    assert versions[""] == networks.OPSET
    batch = described.graph.input[0].type.tensor_type.shape.dim[0]
    assert not batch.dim_value  # any number of images


def test_litert_networks_embed_like_the_model(tmp_path):
    pytest.importorskip("ai_edge_litert")
    model = build_model()
    sizes = {}
    images = [draw_image(32, 32, seed).astype(np.float32) for seed in range(20)]
    least = {"none": 0.99999, "float16": 0.9999, "dynamic": 0.97, "int8": 0.9}
    for quantization in networks.QUANTIZATIONS:
        path = tmp_path / f"{quantization}.tflite"
        embedder = write(model, path, quantization=quantization, images=images)
        assert_embeds_like(model, embedder, least[quantization])
        sizes[quantization] = path.stat().st_size
    assert sizes["float16"] < 0.6 * sizes["none"] and sizes["int8"] < 0.4 * sizes["none"]


@pytest.mark.parametrize(
    ("name", "kind", "options", "message"),
    [
        ("model.bin", "onnx", {}, "must end in .onnx"),
        ("model.onnx", "onnx", {"quantization": "int8"}, "is one of litert"),
        ("model.tflite", "litert", {"quantization": "int8"}, "measures its ranges on images"),
    ],
)
def test_impossible_networks_are_refused(tmp_path, name, kind, options, message):
    with pytest.raises(UserError, match=message):
        networks.write_network(build_model(), tmp_path / name, kind, **options)


def test_missing_or_damaged_files_are_one_line(tmp_path):
    pytest.importorskip("ai_edge_litert")
    path = tmp_path / "model.tflite"
    write(build_model(), path)
    data = path.read_bytes()
    path.write_bytes(b"\0" * 100)
    with pytest.raises(UserError, match="cannot be opened"):
        Embedder.from_pretrained(path)
    path.write_bytes(data)
    networks.settings_path(path).write_text('{"image_size": 32}')
    with pytest.raises(UserError, match=r"model.tflite.json"):
        Embedder.from_pretrained(path)
    networks.settings_path(path).unlink()
    with pytest.raises(UserError, match="says how to resize images, is missing"):
        Embedder.from_pretrained(path)


def test_different_exports_are_refused(tmp_path):
    good, rounded = ExportCheck("", 1e-7, 1.0), ExportCheck("", 1e-2, 0.9995)
    for path in (tmp_path / "model", tmp_path / "model.onnx"):
        good.refuse_if_different(path, "float32")
    rounded.refuse_if_different(tmp_path / "model.onnx", "float32")
    rounded.refuse_if_different(tmp_path / "model", "float16")
    with pytest.raises(UserError, match="nothing was written"):
        rounded.refuse_if_different(tmp_path / "model", "float32")
    with pytest.raises(UserError, match="nothing was written"):
        ExportCheck("", 1.0, 0.5).refuse_if_different(tmp_path / "model.tflite", "int8")


@pytest.mark.slow
def test_command_exports_a_run_in_int8(tmp_path):
    splits = {"train": 30, "val": 4, "test": 4}
    images = {
        split: [(f"toys/{split}/{i}.jpg", i % 4) for i in range(count)]
        for split, count in splits.items()
    }
    write_uned_layout(tmp_path / "tiny", "toys", images)
    data_dir = tmp_path / "data"
    assert run_cli("prepare", f"--manual_dir={tmp_path / 'tiny'}", f"--data_dir={data_dir}")[0] == 0
    config = base_config()
    config.data.dataset = "tiny"
    config.model.update(backbone="small", image_size=32)
    model = build_run_model(config)
    folder = tmp_path / "run"
    write_config(folder, config, {"data_dir": str(data_dir)})
    save_architecture(folder, model)
    state = {"model": [weight.value for weight in model.weights]}
    Checkpoints(folder, state, background=False).save_best(1)
    path = tmp_path / "model.tflite"
    flags = [f"--workdir={folder}", "--format=litert", "--quantization=int8", f"--output={path}"]
    code, out, err = run_cli("export", *flags)
    assert code == 0, err[-3000:]
    assert "int8 weights, differs from the trained model" in out
    card = json.loads((tmp_path / "model.tflite.card.json").read_text())
    assert card["fingerprint"] == Embedder.from_pretrained(path).fingerprint
    code, _, err = run_cli("export", *flags)
    assert code == 1 and "already exists" in err
