"""Submissions that are not what the scorer takes."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from universal_embedding.errors import UserError
from universal_embedding.export import archive, scorer, signature

IMAGES = tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")


def zipped(folder, function, spec=IMAGES, name="serving_default"):
    module = tf.Module()
    module.embed = tf.function(function, input_signature=[spec])
    module.weight = tf.Variable(1.0)
    tf.saved_model.save(module, str(folder / "model"), signatures={name: module.embed})
    archive.pack(folder / "model", folder / "submission.zip")
    return folder / "submission.zip"


def serve(path, folder):
    archive.unpack(path, folder / "unpacked")
    return signature.default(signature.read(folder / "unpacked", path), path)


def means(images):
    return tf.reduce_mean(tf.cast(images, tf.float32), axis=[1, 2])


CASES = {
    "no signature 'serving_default'": {"name": "predict"},
    "takes": {"spec": tf.TensorSpec([None, None, None, 3], tf.float32)},
    "not one TensorSpec": {"spec": tf.TensorSpec([None, 32, 32, 3], tf.uint8)},
    "gives embedding, not 'embedding_norm'": {
        "function": lambda images: {"embedding": means(images)}
    },
    "not float32": {"function": lambda images: {"embedding_norm": tf.cast(means(images), "half")}},
    "float32 .B, D.": {"function": lambda images: {"embedding_norm": means(images)[0]}},
}


@pytest.mark.parametrize("message", CASES)
def test_a_wrong_signature_is_refused(message, tmp_path):
    case = {"function": lambda images: {"embedding_norm": means(images)}, **CASES[message]}
    with pytest.raises(UserError, match=message):
        serve(zipped(tmp_path, **case), tmp_path)


def test_no_saved_model(tmp_path):
    for name in archive.FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"nonsense")
    with pytest.raises(UserError, match="not a SavedModel that loads"):
        signature.read(tmp_path, tmp_path)


def of_varying_size(images):
    return {"embedding_norm": means(images)[:, : tf.minimum(tf.shape(images)[1], 3)]}


def not_finite(images):
    return {"embedding_norm": 1 / means(images)}


def of_65_dimensions(images):
    return {"embedding_norm": tf.tile(means(images), [1, 22])[:, :65]}


def of_one_row(images):
    return {"embedding_norm": tf.concat([means(images)] * 2, axis=0)}


def failing(images):
    return {"embedding_norm": tf.ensure_shape(means(images)[:, : tf.shape(images)[1]], [None, 3])}


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (of_varying_size, "b.png has 2 dimensions and the first picture's 3"),
        (not_finite, "b.png holds NaN or infinity"),
        (of_65_dimensions, "a.png has 65 dimensions"),
        (of_one_row, r"a.png is float32 of shape \(2, 3\)"),
        (failing, "fails at .*b.png"),
    ],
)
def test_wrong_embeddings_are_refused(function, message, tmp_path):
    Image.fromarray(np.full([3, 4, 3], 9, np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.zeros([2, 4, 3], np.uint8)).save(tmp_path / "b.png")
    served = serve(zipped(tmp_path, function), tmp_path)
    with pytest.raises(UserError, match=message):
        scorer.embed(served, [tmp_path / "a.png", tmp_path / "b.png"])
