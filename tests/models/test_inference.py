"""Tests of inference over records: order, padding, replicas, and errors."""

import numpy as np
import pytest
import tensorflow as tf
from tqdm import tqdm

from tests.helpers.fake_records import FakeRecords, make_domains
from universal_embedding.errors import UserError
from universal_embedding.input.images import preprocess_eval
from universal_embedding.models.inference import embed_records, make_embed_fn

SIZE = 24
NUM_IMAGES = 7  # with batches of 4 the last one is padded


@pytest.fixture(scope="module")
def records():
    return make_domains({"cars": NUM_IMAGES})["cars"]


def channel_means(images, training=False):
    assert not training
    return tf.reduce_mean(images, axis=(1, 2))


def expected_rows(records, resize_mode="squash"):
    images = records.read(range(len(records)))
    images = tf.stack([preprocess_eval(tf.constant(i), SIZE, resize_mode) for i in images])
    return channel_means(images).numpy()


@pytest.mark.parametrize("resize_mode", ["squash", "crop"])
@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_rows_are_in_the_order_of_the_records(records, batch_size, resize_mode):
    embed_fn = make_embed_fn(channel_means, tf.distribute.get_strategy())
    rows = embed_records(embed_fn, records, SIZE, resize_mode, batch_size, show_progress=False)
    assert rows.shape == (NUM_IMAGES, 3) and rows.dtype == np.float32
    np.testing.assert_allclose(rows, expected_rows(records, resize_mode), atol=1e-3)


@pytest.mark.parametrize("replicas", [2, 3])
def test_replicas_give_the_rows_of_one_device(records, replicas):
    strategy = tf.distribute.MirroredStrategy(
        [f"CPU:{i}" for i in range(replicas)], tf.distribute.ReductionToOneDevice()
    )
    embed_fn = make_embed_fn(channel_means, strategy)
    rows = embed_records(embed_fn, records, SIZE, batch_size=4)
    np.testing.assert_allclose(rows, expected_rows(records), atol=1e-3)
    images = tf.random.stateless_uniform([5, SIZE, SIZE, 3], [0, 0])
    assert embed_fn(images).shape == (5, 3)  # 5 images do not divide over the replicas


def test_out_is_filled_and_the_given_bar_advances(records, tmp_path):
    embed_fn = make_embed_fn(channel_means, tf.distribute.get_strategy())
    out = np.lib.format.open_memmap(tmp_path / "rows.npy", "w+", np.float32, (NUM_IMAGES, 3))
    with tqdm(total=2 * NUM_IMAGES, disable=False, file=(tmp_path / "bar").open("w")) as bar:
        for _ in range(2):
            assert embed_records(embed_fn, records, SIZE, out=out, progress_bar=bar) is out
        assert bar.n == 2 * NUM_IMAGES
    out.flush()
    np.testing.assert_allclose(np.load(tmp_path / "rows.npy"), expected_rows(records), atol=1e-3)


def test_corrupt_image_is_a_user_error_with_its_id(records):
    images = [*records.images[:3], b"not an image"]
    corrupt = FakeRecords("cars", [1, 2, 3, 4], images)
    embed_fn = make_embed_fn(channel_means, tf.distribute.get_strategy())
    with pytest.raises(UserError, match=r"cars/3\.jpg"):
        embed_records(embed_fn, corrupt, SIZE)


def test_no_records_are_an_error():
    with pytest.raises(ValueError, match="'cars', split 'train', has no records"):
        embed_records(lambda images: images, FakeRecords("cars", [], []), SIZE)
