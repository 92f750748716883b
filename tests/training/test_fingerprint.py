"""The fingerprint of each batch in metrics.jsonl, against one made of Python's integers."""

import numpy as np
import pytest
import tensorflow as tf

from universal_embedding.training.config import stage
from universal_embedding.training.fingerprint import fingerprint_slice, finish_fingerprint
from universal_embedding.training.hooks import default_hooks
from universal_embedding.training.metric_writer import read_rows
from universal_embedding.training.strategy import mirrored
from universal_embedding.training.trainer import train

LEARNING_RATES = {"projection_lr": 1e-2, "head_lr": 1e-2}


def naive_fingerprint(domains, records):
    bits = np.random.default_rng(0).integers(0, 2**63, len(records), np.int64)
    total = sum(
        (int(bit) | 1) * (int(record) + 1 + int(domain) * 2**40)
        for bit, domain, record in zip(bits, domains, records, strict=True)
    )
    return (total % 2**64) >> 16


def fingerprint(domains, records):
    batch = {"domain": tf.constant(domains, tf.int32), "record": tf.constant(records, tf.int64)}
    return finish_fingerprint(fingerprint_slice(batch).numpy())


def test_order_domain_and_record_matter():
    domains, records = [0, 1, 1, 0], [5, 5, 10**9, 0]
    expected = naive_fingerprint(domains, records)
    assert fingerprint(domains, records) == expected < 2**48
    others = [
        fingerprint([1, 0, 1, 0], records),
        fingerprint(domains, [5, 5, 0, 10**9]),
        fingerprint(domains, [5, 5, 10**9, 1]),
        fingerprint(domains[::-1], records[::-1]),
    ]
    assert len({expected, *others}) == 5


@pytest.mark.parametrize("replicas", [1, 2])
def test_logged_fingerprint_is_that_of_the_sampled_images(make_experiment, config, replicas):
    config.log_every_steps = 3
    config.stages = (
        stage(steps=4, input="features", domains=("boats", "coins"), **LEARNING_RATES),
        stage(steps=2, **LEARNING_RATES),
    )
    experiment = make_experiment(strategy=mirrored(2) if replicas == 2 else None)
    train(experiment, default_hooks(experiment))
    logged = {row["step"]: row["data_fingerprint"] for row in read_rows_of(experiment)}
    expected = {}
    for step, stage_index in ((3, 0), (4, 0), (6, 1)):
        current = experiment.stages[stage_index]
        positions = [[*experiment.records].index(d) for d in experiment.stage_records(current)]
        spec = experiment.batch_sampler(current).batch_at(step - 1)
        domains = np.array(positions)[spec.domain.numpy()]
        expected[step] = naive_fingerprint(domains, spec.record.numpy())
    assert logged == expected


def read_rows_of(experiment):
    return read_rows(experiment.workdir / "metrics.jsonl")
