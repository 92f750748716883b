import zipfile

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

import universal_embedding
from universal_embedding.errors import UserError
from universal_embedding.export import archive, saved_model, submission

SIZES = [(1, 1), (1, 3000), (4000, 3000), (32, 32), (45, 77)]


def test_zip_holds_the_scorers_files_and_nothing_else(exported):
    with zipfile.ZipFile(exported[0]) as file:
        assert sorted(file.namelist()) == sorted(archive.FILES)


def test_no_op_unknown_to_tensorflow_2_6(exported):
    saved = saved_model_pb2.SavedModel.FromString((exported[1] / "saved_model.pb").read_bytes())
    graph = saved.meta_graphs[0].graph_def
    ops = {node.op for f in graph.library.function for node in f.node_def}
    assert "ScaleAndTranslate" in ops
    assert "DisableCopyOnRead" not in ops


@pytest.mark.parametrize("aspect", ["squash", "crop", "pad"])
def test_agrees_with_the_embedder(aspect, tmp_path, tiny_embedder, picture):
    embedder = tiny_embedder(aspect=aspect, seed=3)
    saved_model.save(embedder, tmp_path / "model")
    serve = tf.saved_model.load(str(tmp_path / "model")).signatures["serving_default"]
    pictures = [picture(*size, seed) for seed, size in enumerate(SIZES)]
    pictures.append(np.full([20, 30, 3], 200, np.uint8))
    for image in pictures:
        outputs = serve(tf.constant(image[None]))
        expected = embedder(image[None].astype(np.float32), training=False)
        assert outputs["embedding_norm"].shape == (1, 64)
        np.testing.assert_allclose(outputs["embedding_norm"], expected, atol=1e-5)
        raw = outputs["embedding"].numpy()
        np.testing.assert_allclose(raw / np.linalg.norm(raw), expected, atol=1e-5)


def test_more_than_64_dimensions_is_an_error(tmp_path, tiny_embedder):
    with pytest.raises(UserError, match="65 dimensions"):
        submission.write(tiny_embedder(65), tmp_path / "submission.zip")
    assert not list(tmp_path.iterdir())


def test_load_gives_the_same_from_directory_and_zip(exported, embedder, picture):
    from_zip, from_directory = map(universal_embedding.load, exported)
    assert from_zip.fingerprint == from_directory.fingerprint
    pictures = [picture(40, 50, seed) for seed in range(5)]
    expected = embedder(np.stack(pictures).astype(np.float32))
    for model in (from_zip, from_directory):
        rows = model(pictures, batch_size=2)
        assert rows.shape == (5, 64) and rows.dtype == np.float32
        np.testing.assert_allclose(rows, expected, atol=1e-5)
