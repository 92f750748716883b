import tracemalloc

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.helpers import tiny_presets
from tests.helpers.fake_records import FakeRecords
from tests.helpers.odd_images import ODD_IMAGES
from tests.helpers.tiny_model import build_model, draw_image
from universal_embedding.datasets.image_files import read_image
from universal_embedding.errors import UserError
from universal_embedding.export.embedder import Embedder
from universal_embedding.export.saved_model import save_model
from universal_embedding.input.pipeline import evaluation_batches
from universal_embedding.models.backbones import load_backbone
from universal_embedding.models.embedding_model import EmbeddingModel

SIZES = [(1, 1), (1, 3000), (4000, 3000), (32, 32), (45, 77)]


@pytest.fixture(scope="module")
def embedder(exported):
    return Embedder.from_pretrained(exported[1])


def save_gray_model(folder):
    """A SavedModel of another program: one signature, rows of any length, no image size."""

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")])
    def embed(images):
        return {"embedding_norm": tf.reduce_mean(tf.cast(images, tf.float32), axis=[1, 2])}

    module = tf.Module()
    module.embed = embed
    module.weight = tf.Variable(1.0)
    tf.saved_model.save(module, str(folder), signatures={"serving_default": embed})
    return folder


def test_directory_and_zip_have_equal_embeddings_and_fingerprint(exported, model):
    from_zip, from_directory = map(Embedder.from_pretrained, exported)
    assert from_zip.fingerprint == from_directory.fingerprint
    images = [draw_image(40, 50, seed) for seed in range(5)]
    expected = model(np.stack(images).astype(np.float32))
    for embedder in (from_zip, from_directory):
        rows = embedder.encode(images, batch_size=2)
        assert rows.shape == (5, 64) and rows.dtype == np.float32
        np.testing.assert_allclose(rows, expected, atol=1e-5)


def test_attributes_and_repr_describe_the_model(exported, embedder):
    assert (embedder.embedding_dim, embedder.image_size) == (64, 32)
    assert embedder.name == str(exported[1])
    text = repr(embedder)
    for part in (str(exported[1]), "SavedModel", "64", "32", embedder.fingerprint[:12]):
        assert part in text


def test_encode_takes_a_mix_of_kinds_and_sizes(embedder, model, tmp_path):
    gray = draw_image(30, 40)[..., 0]
    odd = [draw_image(*size, seed) for seed, size in enumerate(SIZES)]
    arrays = [*odd, gray, np.full([8, 8, 3], 255, np.uint8)]
    files = []
    for i, array in enumerate(arrays[:2] + arrays[3:]):
        files.append(tmp_path / f"{i}.png")
        Image.fromarray(array).save(files[-1])
    mix = [arrays[0], files[1], str(files[2]), arrays[5], files[4].read_bytes(), arrays[2]]
    rows = embedder.encode(mix, batch_size=4)
    gray = np.repeat(gray[..., None], 3, axis=-1)
    for row, array in zip(rows, [odd[0], odd[1], odd[3], gray, gray, odd[2]], strict=True):
        expected = model(array[None].astype(np.float32))[0]
        np.testing.assert_allclose(row, expected, atol=1e-5)
    np.testing.assert_allclose(embedder.encode(files[1]), rows[1:2], atol=1e-6)  # a single image
    assert embedder.encode([]).shape == (0, 64)


@pytest.mark.parametrize("kind", ODD_IMAGES)
def test_path_bytes_pil_image_and_array_agree(kind, embedder, tmp_path):
    path, data = tmp_path / "image", ODD_IMAGES[kind]
    path.write_bytes(data)
    opened = Image.open(path)
    ways = [path, str(path), data, opened, read_image(data)]
    expected = embedder.encode(ways[-1])
    for way in ways:
        np.testing.assert_allclose(embedder.encode([way]), expected, atol=1e-6)
    opened.load()
    if opened.format not in ("JPEG", "MPO", "WEBP"):  # the decoders of these differ a little
        np.testing.assert_allclose(embedder.encode([opened]), expected, atol=1e-6)


def test_ways_agree_without_a_signature_for_encoded_images(tmp_path):
    embedder = Embedder.from_pretrained(save_gray_model(tmp_path / "model"))
    assert embedder.image_size is None and embedder.embedding_dim == 3
    for data in ODD_IMAGES.values():
        path = tmp_path / "image"
        path.write_bytes(data)
        ways = [path, data, Image.open(path), read_image(data)]
        rows = embedder.encode(ways)
        np.testing.assert_allclose(rows, rows[[0] * 4], atol=1e-6)
        mean = read_image(data).mean(axis=(0, 1))
        np.testing.assert_allclose(rows[0], mean / np.linalg.norm(mean), atol=1e-5)


def test_unreadable_images_are_named(embedder, tmp_path):
    Image.fromarray(draw_image(9, 9)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_text("not an image")
    with pytest.raises(UserError, match=r"bad\.png: cannot decode image"):
        embedder.encode([tmp_path / "good.png", tmp_path / "bad.png", tmp_path / "good.png"])
    with pytest.raises(UserError, match=r"image 1 \(bytes\): cannot decode image"):
        embedder.encode([(tmp_path / "good.png").read_bytes(), b"not an image"])
    with pytest.raises(UserError, match=r"none\.png: the file is missing"):
        embedder.encode(tmp_path / "none.png")
    for shape, dtype in (([4, 4, 5], float), ([0, 4, 3], "uint8"), ([4, 4, 5], "uint8")):
        with pytest.raises(UserError, match=r"image 0 \(ndarray\): .*expected uint8"):
            embedder.encode(np.zeros(shape, dtype))
    with pytest.raises(UserError, match=r"image 2 \(int\): expected a path"):
        embedder.encode([tmp_path / "good.png", tmp_path / "good.png", 3])
    with pytest.raises(UserError, match="cannot encode a NoneType"):
        embedder.encode(None)
    with pytest.raises(UserError, match="batch_size is 0"):
        embedder.encode([], batch_size=0)


def test_image_that_the_model_fails_on_is_named(tmp_path):
    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")])
    def embed(images):
        with tf.control_dependencies([tf.debugging.assert_positive(tf.cast(images, tf.int32))]):
            return {"embedding_norm": tf.ones([tf.shape(images)[0], 3])}

    module = tf.Module()
    module.embed = embed
    module.weight = tf.Variable(1.0)
    tf.saved_model.save(module, str(tmp_path / "m"), signatures={"serving_default": embed})
    images = [np.full([4, 4, 3], value, np.uint8) for value in (1, 2, 0, 3)]
    with pytest.raises(UserError, match=r"image 2 \(ndarray\) cannot be embedded"):
        Embedder.from_pretrained(tmp_path / "m").encode(images)


def test_generator_is_not_held_in_memory(embedder):
    def generate():
        return (draw_image(400, 500, seed) for seed in range(60))

    embedder.encode(generate(), batch_size=2)
    tracemalloc.start()
    rows = embedder.encode(generate(), batch_size=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(rows) == 60
    assert peak < 20 * 400 * 500 * 3  # the images together are three times as large


def test_generator_may_reuse_or_close_what_it_yielded(embedder, tmp_path):
    images = [draw_image(20, 30, seed) for seed in range(5)]
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")

    def reusing():
        buffer = np.empty_like(images[0])
        for image in images:
            buffer[:] = image
            yield buffer

    def closing():
        for i in range(len(images)):
            with Image.open(tmp_path / f"{i}.png") as image:
                yield image

    expected = embedder.encode(images)
    np.testing.assert_allclose(embedder.encode(reusing(), batch_size=2), expected, atol=1e-6)
    np.testing.assert_allclose(embedder.encode(closing(), batch_size=2), expected, atol=1e-6)


def test_batch_array_and_tensors_are_taken(embedder):
    images = np.stack([draw_image(20, 30, seed) for seed in range(3)])
    expected = embedder.encode(list(images))
    np.testing.assert_allclose(embedder.encode(images), expected, atol=1e-6)
    np.testing.assert_allclose(embedder.encode(tf.constant(images[0])), expected[:1], atol=1e-6)


def test_progress_bar_is_shown_on_demand(embedder, capsys):
    embedder.encode([draw_image(4, 4)])  # standard error is not a terminal here
    embedder.encode([draw_image(4, 4)], show_progress_bar=False)
    assert capsys.readouterr().err == ""
    embedder.encode(iter([draw_image(4, 4)]), show_progress_bar=True)
    assert "1image" in capsys.readouterr().err.replace(" ", "")


def test_similarity_is_the_cosine(embedder):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(3, 8)), rng.normal(size=(5, 8))
    expected = [[x @ y / np.linalg.norm(x) / np.linalg.norm(y) for y in b] for x in a]
    similarity = embedder.similarity(a, b)
    assert similarity.dtype == np.float32
    np.testing.assert_allclose(similarity, expected, atol=1e-6)
    np.testing.assert_allclose(embedder.similarity(a[0], b), expected[:1], atol=1e-6)


def test_keras_file_of_an_embedding_model_and_of_a_backbone(tmp_path):
    model = build_model(16, seed=4)
    model.save(tmp_path / "model.keras")
    images = [draw_image(40, 50, seed) for seed in range(3)]
    embedder = Embedder.from_pretrained(tmp_path / "model.keras")
    assert (embedder.embedding_dim, embedder.image_size) == (16, 32)
    np.testing.assert_allclose(embedder.encode(images), model(np.stack(images)), atol=1e-5)
    with pytest.raises(UserError, match="leave image_size out"):
        Embedder.from_pretrained(tmp_path / "model.keras", image_size=64)

    model.backbone.save(tmp_path / "backbone.keras")
    embedder = Embedder.from_pretrained(tmp_path / "backbone.keras", image_size=32)
    assert (embedder.embedding_dim, embedder.image_size) == (48, 32)
    features = model.features(np.stack(images)).numpy()
    expected = features / np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(embedder.encode(images), expected, atol=1e-5)


def test_backbone_by_name_and_preset_directory(tmp_path):
    keras.utils.set_random_seed(0)
    embedder = Embedder.from_pretrained("small")
    assert embedder.image_size == 224 and "backbone" in repr(embedder)
    tiny_presets.make_tiny_model("ViTBackbone").save_to_preset(str(tmp_path / "preset"))
    embedder = Embedder.from_pretrained(tmp_path / "preset", image_size=tiny_presets.SIZE)
    backbone = load_backbone(str(tmp_path / "preset"), tiny_presets.SIZE)
    images = np.stack([draw_image(40, 50, seed) for seed in range(3)])
    expected = EmbeddingModel(backbone, None, tiny_presets.SIZE)(images)
    np.testing.assert_allclose(embedder.encode(images), expected, atol=1e-5)
    same = Embedder.from_pretrained(tmp_path / "preset", image_size=tiny_presets.SIZE)
    assert same.fingerprint == embedder.fingerprint


def test_missing_models_are_refused(tmp_path, exported):
    with pytest.raises(UserError, match=r"is a directory without a run \(config\.json\)"):
        Embedder.from_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"none\.zip does not exist"):
        Embedder.from_pretrained(tmp_path / "none.zip")
    with pytest.raises(UserError, match="runs/none"):
        Embedder.from_pretrained("runs/none")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json"):
        Embedder.from_pretrained(tmp_path)
    with pytest.raises(UserError, match="leave image_size out"):
        Embedder.from_pretrained(exported[0], image_size=64)


def check_against_evaluation_path(model, paths, folder):
    save_model(model, folder / "model")
    records = FakeRecords("mini", [0] * len(paths), [path.read_bytes() for path in paths])
    batches = evaluation_batches(records, 32, model.image_size, model.resize_mode)
    embed = tf.function(lambda images: model(images, training=False))
    expected = np.concatenate([embed(batch["image"])[batch["mask"]] for batch in batches])
    embeddings = Embedder.from_pretrained(folder / "model").encode(paths)
    assert len(embeddings) == len(expected) == len(paths)
    np.testing.assert_allclose(embeddings, expected, atol=1e-5)


def test_every_image_of_a_domain_agrees_with_the_evaluation_path(uned_mini, model, tmp_path):
    paths = sorted(p for p in (uned_mini / "images" / "dishes").rglob("*") if p.is_file())
    assert len(paths) > 600
    check_against_evaluation_path(model, paths, tmp_path)


@pytest.mark.slow
def test_real_backbone_agrees_with_the_evaluation_path(uned_mini, efficientnet_lite0, tmp_path):
    paths = sorted(p for p in (uned_mini / "images").rglob("*") if p.is_file())[::31]
    model = EmbeddingModel(load_backbone(str(efficientnet_lite0)))
    check_against_evaluation_path(model, paths, tmp_path)
