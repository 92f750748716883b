"""Specialists, universal baselines and distillation on uned_mini over a frozen backbone.

    universal-embedding prepare --manual_dir=PATH/TO/uned_mini
    python benchmarks/uned_mini_features.py --backbone=PATH/TO/efficientnet_lite0.keras

Every model is one linear layer to 64 dimensions: the recipe `distill` with the arguments of its
row. Each run keeps its best checkpoint by validation (merged R@1; for specialists R@1 within their
domain). Features are computed once, into --cache.
"""

import tempfile
from pathlib import Path

import common
import numpy as np
import tensorflow as tf
from absl import flags
from uned_mini_table import format_scores, print_report

from universal_embedding.commands.config_flag import read_config_flag
from universal_embedding.datasets.records import default_data_dir, open_records
from universal_embedding.errors import UserError
from universal_embedding.evaluation.embed import open_eval_sets
from universal_embedding.evaluation.embeddings import DomainEmbeddings
from universal_embedding.evaluation.evaluate import evaluate_domains
from universal_embedding.models.backbones import load_backbone
from universal_embedding.models.embedding_model import EmbeddingModel
from universal_embedding.training.experiment import Experiment
from universal_embedding.training.feature_cache import FeatureCache, cache_features

DATA_DIR = flags.DEFINE_string("data_dir", default_data_dir(), "Directory of prepared datasets.")
BACKBONE = flags.DEFINE_string("backbone", None, "Frozen backbone: a .keras file.", required=True)
CACHE = flags.DEFINE_string("cache", None, "Directory of the features; by default temporary.")
NUM_SEEDS = flags.DEFINE_integer("num_seeds", 3, "Runs of each setting, with seeds 0, 1, ...", 1)
MODELS = flags.DEFINE_list("models", [], "Universal models to run; by default all.")

DATASET, IMAGE_SIZE = "uned_mini", 224
ORACLE = "specialists + oracle"
# Arguments of the recipe `distill`, which holds every other value, for each row of the table.
ROWS = {
    "joint": "method=joint",
    "separate": "method=separate",
    "distance_distribution": "method=distance_distribution",
    "distance_distribution (other domains masked)": (
        "method=distance_distribution,mask_other_domains"
    ),
    "distance": "method=distance",
    "rkd_distance": "method=rkd_distance",
    "udon": "method=udon",
    "udon (single-domain batches)": "method=udon,batching=per_domain",
}


class FeatureSet:
    """Frozen features of every image by split, and scores of linear layers over them."""

    def __init__(self, folder):
        backbone = load_backbone(BACKBONE.value, IMAGE_SIZE)
        model = EmbeddingModel(backbone, None, IMAGE_SIZE)

        def compute(name, records):
            return cache_features(folder / name, records, model, tf.distribute.get_strategy(), 64)

        self.train_folder = folder / "train"
        self.dim = model.output_dim
        self.eval_sets = {s: open_eval_sets(DATA_DIR.value, DATASET, s) for s in ("val", "test")}
        self.records = {
            domain: open_records(DATA_DIR.value, DATASET, domain, "train")
            for domain in self.eval_sets["test"]
        }
        self.train = {d: np.array(rows) for d, rows in compute("train", self.records).items()}
        self.queries, self.indexes = {}, {}
        for split, eval_sets in self.eval_sets.items():
            queries = {domain: e.queries for domain, e in eval_sets.items()}
            indexes = {domain: e.index for domain, e in eval_sets.items() if e.index is not None}
            self.queries[split] = compute(split, queries)
            self.indexes[split] = compute(f"{split}-index", indexes) if indexes else {}

    def evaluate(self, split, embed, domains=None, protocols=("merged", "separate")):
        """Scores of `embed(domain, features)`, as `evaluate_domains` returns them."""
        embeddings = {}
        for domain in domains or self.records:
            eval_set = self.eval_sets[split][domain]
            arguments = [embed(domain, self.queries[split][domain]), eval_set.queries.labels]
            if eval_set.index is not None:
                arguments += [embed(domain, self.indexes[split][domain]), eval_set.index.labels]
                arguments += [eval_set.queries.image_ids, eval_set.index.image_ids]
            embeddings[domain] = DomainEmbeddings(*arguments)
        return evaluate_domains(embeddings, protocols)

    def test(self, layer):
        """Scores of one layer for all domains on the test split."""
        return self.evaluate("test", lambda _, features: layer(features))


class Runner:
    """Trains linear layers, each in a run directory of its own."""

    def __init__(self, features, folder):
        self.features, self.folder, self.num_runs = features, folder, 0

    def train(self, argument, seed, teacher_rows=None, domain=""):
        """Trains one model.

        Args:
            argument: Of the recipe `distill`.
            seed: The run's seed.
            teacher_rows: `[N, D]` embeddings of the training images by domain, for distillation.
            domain: The domain of a specialist.

        Returns:
            The best linear layer, a function from `[N, F]` to `[N, 64]`, and its validation score.
        """
        argument += f",dataset={DATASET},backbone={BACKBONE.value},teachers=cached/{{domain}}"
        config = read_config_flag(f"distill:{argument}")
        config.seed = seed
        self.num_runs += 1
        workdir = self.folder / f"{self.num_runs}-{seed}"
        workdir.mkdir()
        (workdir / "features").symlink_to(self.features.train_folder.resolve())
        records, strategy = self.features.records, tf.distribute.get_strategy()
        if config.distillation.teachers:
            cache = FeatureCache(workdir / "teachers" / "cached", strategy)
            cache.compute(records, "", RowEmbedder(teacher_rows), "teachers", show_progress=False)
        records = {domain: records[domain]} if domain else records
        best_layer, best_score = None, -1.0

        def validate(model, strategy):
            nonlocal best_layer, best_score
            layer = linear_layer(model.projection.kernel.numpy())
            scores = self.features.evaluate("val", lambda _, f: layer(f), records, ["merged"])
            score = scores["merged"]["mean"]["r_at_1"]
            if score > best_score:
                best_layer, best_score = layer, score
            return {"merged/mean/r_at_1": score}

        experiment = Experiment.from_config(config, records, workdir, strategy)
        common.train_to_end(experiment, {"val": validate})
        return best_layer, best_score


class RowEmbedder:
    """Embeddings that were computed before, for a `FeatureCache`."""

    def __init__(self, rows):
        self.rows = rows

    def embed_blocks(self, records, start):
        yield self.rows[records.domain][start:]


def linear_layer(kernel):
    """The function of features that a projection computes: unit rows."""

    def embed(features):
        rows = features @ kernel
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    return embed


def train_specialists(features, runner, seed):
    """Trains one layer per domain; returns the layers and their scores with the oracle."""
    layers = {
        domain: runner.train(f"method=specialist,domain={domain}", seed, domain=domain)[0]
        for domain in features.records
    }
    scores = features.evaluate("test", lambda d, rows: layers[d](rows), protocols=["separate"])
    # The oracle knows each query's domain, so both protocols have the same scores.
    return layers, {"merged": scores["separate"], **scores}


def main():
    if unknown := set(MODELS.value) - set(ROWS):
        raise UserError(f"--models={','.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    with tempfile.TemporaryDirectory() as folder:
        features = FeatureSet(Path(CACHE.value or f"{folder}/features"))
        runner = Runner(features, Path(folder))
        results = {"frozen": [(None, features.test(linear_layer(np.eye(features.dim))))]}
        results[ORACLE], teacher_rows = [], {}
        for seed in range(NUM_SEEDS.value):
            layers, scores = train_specialists(features, runner, seed)
            teacher_rows[seed] = {d: layer(features.train[d]) for d, layer in layers.items()}
            results[ORACLE].append((None, scores))
        rows = {name: ROWS[name] for name in MODELS.value or ROWS}
        for name, argument in rows.items():
            results[name] = []
            for seed in range(NUM_SEEDS.value):
                layer, score = runner.train(argument, seed, teacher_rows[seed])
                results[name].append((score, features.test(layer)))
            validation = np.mean([score for score, _ in results[name]])
            print(
                f"{name}: {format_scores(results[name])}; validation {validation:.4f}", flush=True
            )
        print_report(list(features.records), results, rows)


if __name__ == "__main__":
    common.run(main)
