import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from support.fake_records import FakeRecords
from tensorflow.core.protobuf import saved_model_pb2

import universal_embedding
from universal_embedding.errors import UserError
from universal_embedding.export import archive, saved_model, submission
from universal_embedding.input.pipeline import evaluation_batches
from universal_embedding.models.backbones import load_backbone
from universal_embedding.models.embedder import Embedder

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


def test_a_batch_of_n_is_n_single_calls(exported, picture):
    serve = tf.saved_model.load(str(exported[1])).signatures["serving_default"]
    images = np.stack([picture(45, 77, seed) for seed in range(6)])
    batch = serve(tf.constant(images))
    singles = [serve(tf.constant(image[None])) for image in images]
    for name in ("embedding", "embedding_norm"):
        rows = np.concatenate([single[name] for single in singles])
        np.testing.assert_allclose(batch[name], rows, rtol=1e-5, atol=1e-6)


def test_odd_pictures_in_one_call_of_load(exported, embedder, picture, tmp_path):
    grey = picture(30, 40)[..., 0]
    odd = [picture(*size, seed) for seed, size in enumerate(SIZES)]
    arrays = [*odd, grey, np.full([8, 8, 3], 255, np.uint8)]
    files = []
    for i, array in enumerate(arrays[:2] + arrays[3:]):
        files.append(tmp_path / f"{i}.png")
        Image.fromarray(array).save(files[-1])
    mix = [arrays[0], files[1], str(files[2]), arrays[5], files[4].read_bytes(), arrays[2]]
    model = universal_embedding.load(exported[1])
    rows = model(mix, batch_size=4)
    grey = np.repeat(grey[..., None], 3, axis=-1)
    for row, array in zip(rows, [odd[0], odd[1], odd[3], grey, grey, odd[2]], strict=True):
        expected = embedder(array[None].astype(np.float32))[0]
        np.testing.assert_allclose(row, expected, atol=1e-5)
    np.testing.assert_allclose(model(files[1]), rows[1:2], atol=1e-6)  # one alone
    assert model([]).shape == (0, 64)


def test_what_is_no_picture_is_named(exported, picture, tmp_path):
    model = universal_embedding.load(exported[1])
    Image.fromarray(picture(9, 9)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_text("no picture")
    with pytest.raises(UserError, match=r"bad\.png"):
        model([tmp_path / "good.png", tmp_path / "bad.png", tmp_path / "good.png"])
    with pytest.raises(UserError, match="bytes is not a picture"):
        model([(tmp_path / "good.png").read_bytes(), b"no picture"])
    with pytest.raises(UserError, match=r"none\.png cannot be read.*missing"):
        model(tmp_path / "none.png")
    for shape, dtype in (([4, 4, 3], float), ([0, 4, 3], "uint8"), ([4, 4, 4], "uint8")):
        with pytest.raises(UserError, match="a picture is"):
            model(np.zeros(shape, dtype))


def agrees_with_the_evaluation_path(embedder, paths, folder):
    saved_model.save(embedder, folder / "model")
    records = FakeRecords("mini", [path.read_bytes() for path in paths])
    batches = evaluation_batches(records, 32, embedder.image_size, embedder.aspect)
    embed = tf.function(lambda images: embedder(images, training=False))
    expected = np.concatenate([embed(b["image"])[b["mask"]] for b in batches])
    found = universal_embedding.load(folder / "model")(paths)
    assert len(found) == len(expected) == len(paths)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_every_picture_of_a_domain_agrees_with_the_evaluation_path(uned_mini, embedder, tmp_path):
    paths = sorted(p for p in (uned_mini / "images" / "dishes").rglob("*") if p.is_file())
    assert len(paths) > 600
    agrees_with_the_evaluation_path(embedder, paths, tmp_path)


@pytest.mark.slow
def test_a_real_backbone_agrees_with_the_evaluation_path(uned_mini, efficientnet_lite0, tmp_path):
    paths = sorted(p for p in (uned_mini / "images").rglob("*") if p.is_file())[::31]
    embedder = Embedder(load_backbone(str(efficientnet_lite0)))
    agrees_with_the_evaluation_path(embedder, paths, tmp_path)


def test_a_run_in_mixed_precision_is_exported_in_float32(tmp_path, picture):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        embedder = Embedder(load_backbone("small", 32), image_size=32)
    finally:
        keras.config.set_dtype_policy("float32")
    saved_model.save(embedder, tmp_path / "model")
    exact = saved_model.in_float32(embedder)
    images = np.stack([picture(50, 40, seed) for seed in range(3)]).astype(np.uint8)
    found = universal_embedding.load(tmp_path / "model")(images)
    np.testing.assert_allclose(found, exact(images), atol=1e-5)
    mixed = np.abs(found - embedder(images)).max()
    assert 1e-5 < mixed < 0.05  # the same weights, other arithmetic
    saved = saved_model_pb2.SavedModel.FromString(
        (tmp_path / "model" / "saved_model.pb").read_bytes()
    )
    assert b"bfloat16" not in saved.SerializeToString()
    assert saved_model.in_float32(exact) is exact
