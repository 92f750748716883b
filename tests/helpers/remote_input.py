"""Batches that another process makes, as the hosts of a TPU slice do.

    python -m tests.helpers.remote_input server PORT
    python -m tests.helpers.remote_input client PORT FOLDER
    python -m tests.helpers.remote_input slice PORT,PORT FOLDER

The client prints digests of its own batches and of those that the server made, without and with a
memory map, and then what each says of files that both or one of them see. The slice prints the host
of each core's batches and their digest, then digests of the same slices made here.
"""

import hashlib
import itertools
import sys


def serve(port):
    import tensorflow as tf

    cluster = tf.train.ClusterSpec({"worker": [f"localhost:{port}"]})
    two_cores = tf.compat.v1.ConfigProto(device_count={"CPU": 2})
    server = tf.distribute.Server(cluster, job_name="worker", task_index=0, config=two_cores)
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


def feed_slice(folder, num_hosts, num_cores=2, num_steps=3):
    """Prints what a stage's own input brings to each core of a TPU slice, and what it should."""
    import tensorflow as tf

    from tests.helpers.fake_records import make_domains
    from tests.helpers.fake_tpu import fake_tpu_strategy
    from universal_embedding.training.config import base_config, stage
    from universal_embedding.training.data import stage_batches
    from universal_embedding.training.experiment import Experiment

    config = base_config()
    config.data.batch_size, config.model.backbone, config.model.image_size = 8, "small", 32
    config.augmentation.mixup = 0.4
    config.stages = (stage(steps=9, head_lr=0.1),)
    records = make_domains({"a": 7, "b": 9}, folder=folder)
    one_core = tf.distribute.get_strategy()
    experiment = Experiment.from_config(config, records, folder, one_core)
    (training,) = experiment.stages
    whole = stage_batches(experiment, training, step=5)
    hosts = [f"/job:worker/replica:0/task:{h}" for h in range(num_hosts)]
    experiment.strategy = fake_tpu_strategy(num_cores, hosts)
    sliced = stage_batches(experiment, training, step=5)
    size = 8 // (num_hosts * num_cores)
    for _ in range(num_steps):
        expected, batch = next(whole), next(sliced)
        local = {n: experiment.strategy.experimental_local_results(v) for n, v in batch.items()}
        for core in range(num_hosts * num_cores):
            part = {name: values[core] for name, values in local.items()}
            rows = slice(core * size, (core + 1) * size)
            devices = {value.device for value in part.values()}
            print(digest(sorted((n, v.numpy()) for n, v in part.items())), *devices)
            print(digest(sorted((n, v.numpy()[rows]) for n, v in expected.items())))


def digest(batches):
    return hashlib.sha256(b"".join(values.tobytes() for _, values in batches)).hexdigest()


def main(role, port, folder=""):
    if role == "server":
        return serve(port)
    import numpy as np
    import tensorflow as tf

    from tests.helpers.fake_records import make_domains

    hosts = [f"grpc://localhost:{p}" for p in port.split(",")]
    tf.config.experimental_connect_to_host(hosts, "worker")
    if role == "slice":
        return feed_slice(folder, len(hosts))
    records = make_domains({"a": 7, "b": 9}, folder=folder)
    for i, (domain, domain_records) in enumerate(records.items()):
        np.save(f"{folder}/{domain}.npy", np.full((len(domain_records), 3), i, np.float32))
    for memory_map in (False, True):
        print(digest(make_batches(records, memory_map)))
        with tf.device("/job:worker/task:0/device:CPU:0"):
            print(digest(make_batches(records, memory_map)))
    return look_for_files(folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
