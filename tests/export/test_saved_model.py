import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tests.helpers.tiny_model import build_model, draw_image
from universal_embedding.errors import UserError
from universal_embedding.export import saved_model, zip_archive
from universal_embedding.export.embedder import Embedder
from universal_embedding.models.backbones import load_backbone
from universal_embedding.models.embedding_model import EmbeddingModel

SIZES = [(1, 1), (1, 3000), (4000, 3000), (32, 32), (45, 77)]


def test_no_op_is_unknown_to_tensorflow_2_6(exported):
    saved = saved_model_pb2.SavedModel.FromString((exported[1] / "saved_model.pb").read_bytes())
    graph = saved.meta_graphs[0].graph_def
    ops = {node.op for f in graph.library.function for node in f.node_def}
    assert "ScaleAndTranslate" in ops
    assert "DisableCopyOnRead" not in ops


@pytest.mark.parametrize(
    "resize_mode", ["squash", pytest.param("crop", marks=pytest.mark.slow), "pad"]
)
def test_saved_model_equals_the_model(resize_mode, tmp_path):
    model = build_model(resize_mode=resize_mode, seed=3)
    saved_model.save_model(model, tmp_path / "model")
    serve = tf.saved_model.load(str(tmp_path / "model")).signatures["serving_default"]
    images = [draw_image(*size, seed) for seed, size in enumerate(SIZES)]
    images.append(np.full([20, 30, 3], 200, np.uint8))
    for image in images:
        outputs = serve(tf.constant(image[None]))
        expected = model(image[None].astype(np.float32), training=False)
        assert outputs["embedding_norm"].shape == (1, 64)
        np.testing.assert_allclose(outputs["embedding_norm"], expected, atol=1e-5)
        raw = outputs["embedding"].numpy()
        np.testing.assert_allclose(raw / np.linalg.norm(raw), expected, atol=1e-5)


def test_batch_of_n_equals_n_single_calls(exported):
    serve = tf.saved_model.load(str(exported[1])).signatures["serving_default"]
    images = np.stack([draw_image(45, 77, seed) for seed in range(6)])
    batch = serve(tf.constant(images))
    singles = [serve(tf.constant(image[None])) for image in images]
    for name in ("embedding", "embedding_norm"):
        rows = np.concatenate([single[name] for single in singles])
        np.testing.assert_allclose(batch[name], rows, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("has_bias", [pytest.param(False, marks=pytest.mark.slow), True])
def test_mixed_precision_model_is_exported_in_float32(tmp_path, has_bias):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = EmbeddingModel(load_backbone("small", 32), image_size=32, projection_bias=has_bias)
    finally:
        keras.config.set_dtype_policy("float32")
    if has_bias:
        model.projection.bias.assign(np.linspace(-0.5, 0.5, 64))
    saved_model.save_model(model, tmp_path / "model")
    exact = saved_model.to_float32(model)
    images = np.stack([draw_image(50, 40, seed) for seed in range(3)]).astype(np.uint8)
    embeddings = Embedder.from_pretrained(tmp_path / "model").encode(images)
    np.testing.assert_allclose(embeddings, exact(images), atol=1e-5)
    max_difference = np.abs(embeddings - model(images)).max()
    assert 1e-5 < max_difference < 0.05  # the same weights, other arithmetic
    saved = saved_model_pb2.SavedModel.FromString(
        (tmp_path / "model" / "saved_model.pb").read_bytes()
    )
    assert b"bfloat16" not in saved.SerializeToString()
    assert saved_model.to_float32(exact) is exact


def means(images):
    return tf.reduce_mean(tf.cast(images, tf.float32), axis=[1, 2])


IMAGES = tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")
WRONG_SIGNATURES = {
    "no signature 'serving_default'": {"name": "predict"},
    "takes": {"spec": tf.TensorSpec([None, None, None, 3], tf.float32)},
    "not one TensorSpec": {"spec": tf.TensorSpec([None, 32, 32, 3], tf.uint8)},
    "returns embedding, not 'embedding_norm'": {
        "function": lambda images: {"embedding": means(images)}
    },
    "not float32": {"function": lambda images: {"embedding_norm": tf.cast(means(images), "half")}},
    "float32 .B, D.": {"function": lambda images: {"embedding_norm": means(images)[0]}},
}


@pytest.mark.parametrize("message", WRONG_SIGNATURES)
def test_wrong_signature_is_refused(message, tmp_path):
    case = {"function": lambda images: {"embedding_norm": means(images)}, "spec": IMAGES}
    case |= {"name": "serving_default"} | WRONG_SIGNATURES[message]
    module = tf.Module()
    module.embed = tf.function(case["function"], input_signature=[case["spec"]])
    tf.saved_model.save(module, str(tmp_path), signatures={case["name"]: module.embed})
    with pytest.raises(UserError, match=message):
        saved_model.serving_signature(saved_model.load_saved_model(tmp_path, "x.zip"), "x.zip")


def test_damaged_saved_model_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"x has no saved_model\.pb"):
        saved_model.load_saved_model(tmp_path, "x")
    for name in zip_archive.FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"nonsense")
    with pytest.raises(UserError, match="cannot be loaded as a SavedModel"):
        saved_model.load_saved_model(tmp_path, tmp_path)
