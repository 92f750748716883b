"""Batches that another process makes, as the hosts of a TPU slice do.

    python -m tests.helpers.remote_input server PORT
    python -m tests.helpers.remote_input client PORT FOLDER MEMORY_MAP

    python -m tests.helpers.remote_input blind PORT FOLDER

The client prints a digest of its own batches, then of those that the server made.
"""

import hashlib
import itertools
import sys


def serve(port):
    import tensorflow as tf

    cluster = tf.train.ClusterSpec({"worker": [f"localhost:{port}"]})
    server = tf.distribute.Server(cluster, job_name="worker", task_index=0)
    print("ready", flush=True)
    server.join()


def make_batches(records, memory_map, num_batches=3):
    """`[(name, values), ...]` of a few batches of images, with rows of a memory map."""
    import numpy as np

    from universal_embedding.input import pipeline
    from universal_embedding.input.augmentation_config import AugmentationConfig
    from universal_embedding.input.batch_sampler import BatchSampler
    from universal_embedding.input.record_reader import RecordReader

    pipeline.RecordReader = lambda records, **_: RecordReader(records, memory_map)
    sampler = BatchSampler(records, 6, seed=1, mixed=True)
    config = AugmentationConfig(size=16, mixup=0.4, cutmix=1.0)
    dataset = pipeline.training_batches(records, sampler, config, start_step=10**6)
    folder = records["a"].shard_paths[0].rpartition("/")[0]
    rows = [np.load(f"{folder}/{domain}.npy", mmap_mode="r") for domain in records]
    dataset = pipeline.gather_rows(dataset, "teacher", rows)
    batches = itertools.islice(iter(dataset), num_batches)
    return [(name, batch[name].numpy()) for batch in batches for name in sorted(batch)]


def look_for_files(folder):
    """Prints what each process says of a file that both see, and of one that only this one has."""
    import tensorflow as tf

    from universal_embedding.errors import UserError
    from universal_embedding.models.distribution import assert_files_on_host

    paths = [f"{folder}/a [1]*.tfrecord", "ram://folder/a.tfrecord"]
    tf.io.gfile.makedirs("ram://folder")
    for path in paths:
        with tf.io.gfile.GFile(path, "w") as file:
            file.write("content")
    for device in ("/job:localhost/task:0/device:CPU:0", "/job:worker/task:0/device:CPU:0"):
        with tf.device(device):
            try:
                assert_files_on_host(paths, 3)
                print("seen")
            except UserError as error:
                print(error)


def digest(batches):
    return hashlib.sha256(b"".join(values.tobytes() for _, values in batches)).hexdigest()


def main(role, port, folder="", memory_map=""):
    if role == "server":
        return serve(port)
    import numpy as np
    import tensorflow as tf

    from tests.helpers.fake_records import make_domains

    tf.config.experimental_connect_to_host(f"grpc://localhost:{port}", "worker")
    if role == "blind":
        return look_for_files(folder)
    records = make_domains({"a": 7, "b": 9}, folder=folder)
    for i, (domain, domain_records) in enumerate(records.items()):
        np.save(f"{folder}/{domain}.npy", np.full((len(domain_records), 3), i, np.float32))
    print(digest(make_batches(records, memory_map == "True")))
    with tf.device("/job:worker/task:0/device:CPU:0"):
        print(digest(make_batches(records, memory_map == "True")))


if __name__ == "__main__":
    main(*sys.argv[1:])
