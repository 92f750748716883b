"""Specialists, universal baselines and distillation on uned_mini over a frozen backbone.

    universal-embedding prepare --manual_dir=PATH/TO/uned_mini
    python benchmarks/uned_mini_features.py --backbone=PATH/TO/efficientnet_lite0.keras

Every model is one linear layer to 64 dimensions. Each run keeps its best checkpoint by validation
(merged R@1; for specialists R@1 within their domain), and of a model's settings the one with the
best mean validation score over the seeds is reported. Features are computed once, into --cache.
"""

import tempfile
from pathlib import Path

import common
import keras
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
from universal_embedding.training.feature_cache import cache_features

DATA_DIR = flags.DEFINE_string("data_dir", default_data_dir(), "Directory of prepared datasets.")
BACKBONE = flags.DEFINE_string(
    "backbone", None, "Frozen backbone: a .keras file or `small`.", required=True
)
CACHE = flags.DEFINE_string("cache", None, "Directory of the features; by default temporary.")
NUM_SEEDS = flags.DEFINE_integer("num_seeds", 3, "Runs of each setting, with seeds 0, 1, ...", 1)
MODELS = flags.DEFINE_list("models", [], "Universal models to run; by default all.")

DATASET, IMAGE_SIZE = "uned_mini", 224
ORACLE = "specialists + oracle"
# Settings to try over the recipe `distill` for each row; the first word is its method.
DISTRIBUTION = "losses.distance_distribution"
GRID = {
    "joint": [{}],
    "separate": [{}],
    "distance_distribution": [
        {f"{DISTRIBUTION}.teacher_temperature": t, f"{DISTRIBUTION}.student_temperature": t}
        for t in (0.1, 0.2)
    ],
    "distance_distribution (other domains masked)": [
        {
            f"{DISTRIBUTION}.mask_other_domains": True,
            f"{DISTRIBUTION}.teacher_temperature": 0.2,
            f"{DISTRIBUTION}.student_temperature": 0.2,
        }
    ],
    "distance": [{"losses.distance.weight": 10.0}],
    "rkd_distance": [{"losses.rkd_distance.weight": weight} for weight in (10.0, 30.0)],
    "udon": [{}, {"data.batching": "mixed"}],
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
        # With cached features only the backbone's width matters: this one is quick to build.
        images = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3))
        pooled = keras.layers.GlobalAveragePooling2D()(images)
        self.backbone = folder / "placeholder.keras"
        keras.Model(images, keras.layers.Dense(features.dim)(pooled)).save(self.backbone)

    def train(self, method, seed, setting, teacher_rows=None, domain=""):
        """Trains one model.

        Args:
            method: The method of the recipe `distill`.
            seed: The run's seed.
            setting: Config fields to override.
            teacher_rows: `[N, D]` embeddings of the training images by domain, for distillation.
            domain: The domain of a specialist.

        Returns:
            The best linear layer, a function from `[N, F]` to `[N, 64]`, and its validation score.
        """
        argument = f"method={method},dataset={DATASET},backbone={self.backbone}"
        argument += f",domain={domain}" if domain else ""
        config = read_config_flag(f"distill:{argument}")
        config.seed = seed
        config.update_from_flattened_dict(setting)
        self.num_runs += 1
        workdir = self.folder / f"{self.num_runs}-{method}{domain}-{seed}"
        workdir.mkdir()
        (workdir / "features").symlink_to(self.features.train_folder.resolve())
        if config.distillation.teachers:
            (workdir / "teachers").mkdir()
            for key, rows in teacher_rows.items():
                np.save(workdir / "teachers" / f"{key}.npy", rows)
        records = self.features.records
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

        strategy = tf.distribute.get_strategy()
        experiment = Experiment.from_config(config, records, workdir, strategy)
        common.train_to_end(experiment, {"val": validate})
        return best_layer, best_score


def linear_layer(kernel):
    """The function of features that a projection computes: unit rows."""

    def embed(features):
        rows = features @ kernel
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    return embed


def train_specialists(features, runner, seed):
    """Trains one layer per domain; returns the layers and their scores with the oracle."""
    layers = {
        domain: runner.train("specialist", seed, {}, domain=domain)[0]
        for domain in features.records
    }
    scores = features.evaluate("test", lambda d, rows: layers[d](rows), protocols=["separate"])
    # The oracle knows each query's domain, so both protocols have the same scores.
    return layers, {"merged": scores["separate"], **scores}


def main():
    if unknown := set(MODELS.value) - set(GRID):
        raise UserError(f"--models={','.join(sorted(unknown))}; there are {', '.join(GRID)}")
    with tempfile.TemporaryDirectory() as folder:
        features = FeatureSet(Path(CACHE.value or f"{folder}/features"))
        runner = Runner(features, Path(folder))
        results = {"frozen": [(None, features.test(linear_layer(np.eye(features.dim))))]}
        results[ORACLE], teacher_rows = [], {}
        for seed in range(NUM_SEEDS.value):
            layers, scores = train_specialists(features, runner, seed)
            teacher_rows[seed] = {d: layer(features.train[d]) for d, layer in layers.items()}
            results[ORACLE].append((None, scores))
        best_settings = {}
        for name in MODELS.value or GRID:
            candidates = []
            for setting in GRID[name]:
                candidate = []
                for seed in range(NUM_SEEDS.value):
                    method = name.split()[0]
                    layer, score = runner.train(method, seed, setting, teacher_rows[seed])
                    candidate.append((score, features.test(layer)))
                validation = np.mean([score for score, _ in candidate])
                candidates.append((validation, setting, candidate))
                print(f"{name} {setting}: {format_scores(candidate)}; validation {validation:.4f}")
            _, best_settings[name], results[name] = max(candidates, key=lambda c: c[0])
        print_report(list(features.records), results, best_settings)


if __name__ == "__main__":
    common.run(main)
