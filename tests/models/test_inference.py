"""Tests of inference over records: order, padding, replicas, and errors."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.fake_records import FakeRecords, make_domains
from tests.helpers.fake_tpu import HOST_OPS, count_ops, fake_tpu_strategy
from universal_embedding.errors import UserError
from universal_embedding.input.images import preprocess_eval
from universal_embedding.models.inference import RecordEmbedder
from universal_embedding.training.strategy import mirrored

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
    strategy = tf.distribute.get_strategy()
    embed = RecordEmbedder(channel_means, strategy, SIZE, resize_mode, batch_size)
    rows = embed(records, show_progress=False)
    assert rows.shape == (NUM_IMAGES, 3) and rows.dtype == np.float32
    np.testing.assert_allclose(rows, expected_rows(records, resize_mode), atol=1e-3)
    np.testing.assert_array_equal(embed(records), rows)  # compiled for any records


@pytest.mark.parametrize("replicas", [2, 3])
def test_replicas_give_the_rows_of_one_device(records, replicas):
    single = RecordEmbedder(channel_means, tf.distribute.get_strategy(), SIZE, batch_size=2)
    embed = RecordEmbedder(channel_means, mirrored(replicas), SIZE, batch_size=2)
    np.testing.assert_array_equal(embed(records), single(records))
    np.testing.assert_allclose(embed(records), expected_rows(records), atol=1e-3)


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("start", [0, 1, 4, 6, 7])
def test_blocks_continue_from_any_record(records, start, replicas):
    strategy = mirrored(replicas) if replicas > 1 else tf.distribute.get_strategy()
    embed = RecordEmbedder(channel_means, strategy, SIZE, batch_size=1)
    blocks = list(embed.embed_blocks(records, start))
    assert [len(b) for b in blocks] == block_sizes(NUM_IMAGES - start, replicas)
    rows = np.concatenate([np.zeros((0, 3)), *blocks])
    np.testing.assert_allclose(rows, expected_rows(records)[start:], atol=1e-3)


def block_sizes(total, batch_size):
    """Calls of 1, 2, 4, ... batches, since these take no time."""
    sizes, batches = [], 1
    while total:
        sizes.append(min(total, batches * batch_size))
        total -= sizes[-1]
        batches *= 2
    return sizes


def test_corrupt_image_is_a_user_error_with_its_id(records):
    images = [*records.images[:3], b"not an image"]
    corrupt = FakeRecords("cars", [1, 2, 3, 4], images)
    embed = RecordEmbedder(channel_means, tf.distribute.get_strategy(), SIZE)
    with pytest.raises(UserError, match=r"cars/3\.jpg"):
        embed(corrupt)


def test_no_records_are_an_error():
    embed = RecordEmbedder(channel_means, tf.distribute.get_strategy(), SIZE)
    with pytest.raises(ValueError, match="'cars', split 'train', has no records"):
        embed(FakeRecords("cars", [], []))


def test_inference_is_built_for_tpu_cores_without_ops_of_the_host(records):
    strategy = fake_tpu_strategy(2)
    with strategy.scope():
        layers = [keras.layers.Conv2D(4, 3), keras.layers.GlobalAveragePooling2D()]
        model = keras.Sequential([keras.Input((SIZE, SIZE, 3)), *layers])
    embed = RecordEmbedder(model, strategy, SIZE, batch_size=3)
    function = embed._run.get_concrete_function(embed._batches(records, 0), tf.constant(1))
    ops = count_ops(function)
    assert ops["TPUReplicateMetadata"] and not HOST_OPS & ops.keys()
    assert function.structured_outputs.shape[1:] == [6, 4]
