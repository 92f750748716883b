"""Evaluated sources of random embeddings, with images that nobody needs to look at."""

import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from tests.helpers.fake_records import FakeRecords
from universal_embedding.evaluation.embed import EmbeddingSource, QueryIndexRecords
from universal_embedding.evaluation.evaluate import EvaluationConfig, evaluate_source


class Evaluated(NamedTuple):
    eval_sets: dict
    config: EvaluationConfig
    results: list


def make_records(domain, labels, split="test", prefix="x"):
    images = []
    for i in range(len(labels)):
        out = io.BytesIO()
        Image.new("RGBA", (30 + i % 30, 20), (i % 256, 90, 200, 128)).save(out, "PNG")
        images.append(out.getvalue())
    ids = [f"{prefix}{i}.jpg" for i in range(len(labels))]
    records = FakeRecords(domain, labels, images, split, ids)
    records.class_names = {0: "<zero & one>"}
    return records


def make_source(name, noise):
    def embed(records):
        rng = np.random.default_rng(len(records.split))
        rows = np.eye(6, 8)[records.labels.values] + noise * rng.standard_normal((len(records), 8))
        return rows.astype(np.float32)

    return EmbeddingSource(name, embed)


def make_eval_sets():
    labels = np.arange(30) % 6
    index = make_records("a", labels, "index", "y")
    return {
        "b": QueryIndexRecords(make_records("b", labels), None),
        "a": QueryIndexRecords(make_records("a", labels), index),
    }


def make_results(sources=(("good", 0.3), ("bad", 0.9)), bootstrap_samples=50):
    """Evaluates `(name, noise)` sources on two domains of six classes."""
    eval_sets = make_eval_sets()
    config = EvaluationConfig(bootstrap_samples=bootstrap_samples)
    results = [evaluate_source(make_source(*s), eval_sets, config) for s in sources]
    return Evaluated(eval_sets, config, results)
