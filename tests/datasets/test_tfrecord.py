"""Bytes of records, against TensorFlow's reader and TFDS's encoder."""

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.ram import enable_ram_paths
from universal_embedding.datasets.tfrecord import RecordWriter, decode_example, encode_example
from universal_embedding.files import as_path

enable_ram_paths()


def test_bytes_of_a_record_are_the_same_in_every_process():
    """Features in the order of their names, which protobuf's maps would change from run to run."""
    expected = (
        b"\n>\n\x17\n\x08image_id\x12\x0b\n\t\n\x07a/b.jpg"
        b"\n\x12\n\x05image\x12\t\n\x07\n\x05image"
        b"\n\x0f\n\x05label\x12\x06\x1a\x04\n\x02\x03\x01"
    )
    assert encode_example(b"image", [3, 1], "a/b.jpg") == expected


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=8), st.integers(1, 2**40))
def test_file_is_what_tensorflow_reads_and_tfds_encodes(images, label):
    path = "ram://bucket/one.tfrecord"
    as_path(path).unlink(missing_ok=True)  # unlike a bucket, ram:// does not truncate
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Scalar(tf.string),
            "label": tfds.features.Sequence(np.int64),
            "image_id": tfds.features.Text(),
        }
    )
    with RecordWriter(path) as writer:
        for i, image in enumerate(images):
            data = encode_example(image, [label, -i], f"ü/{i}")
            example = {"image": image, "label": [label, -i], "image_id": f"ü/{i}"}
            parsed = tf.train.Example.FromString(features.serialize_example(example))
            assert tf.train.Example.FromString(data) == parsed
            assert decode_example(data) == {**example, "image_id": f"ü/{i}".encode()}
            writer.write(data)
    assert sum(writer.lengths) == as_path(path).stat().length
    stored = list(tf.data.TFRecordDataset(path).as_numpy_iterator())
    assert [decode_example(data)["image"] for data in stored] == images
    assert writer.lengths == [len(data) + 16 for data in stored]
