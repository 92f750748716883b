"""Specialists, universal baselines and distillation on uned_mini over a frozen backbone.

    python tools/prepare.py --manual_dir=../shared/uned_mini
    python benchmarks/uned_mini_features.py

Every model is one linear layer to 64 dimensions. Each run keeps its best checkpoint by validation,
and of a method's settings the one with the best mean validation over the seeds is reported:
merged R@1, for specialists R@1 within their domain. Features are computed once, into --cache.
"""

import importlib.util
import tempfile
from pathlib import Path

from absl import flags

from universal_embedding import command
from universal_embedding.datasets.location import default_data_dir

DATA_DIR = flags.DEFINE_string("data_dir", default_data_dir(), "Folder of the prepared data sets.")
BACKBONE = flags.DEFINE_string(
    "backbone", "../shared/backbones/efficientnet_lite0.keras", "The frozen backbone."
)
CACHE = flags.DEFINE_string("cache", None, "Folder of the features; a temporary one by default.")
SEEDS = flags.DEFINE_integer("seeds", 3, "Runs of each setting.")
ROWS = flags.DEFINE_list("rows", [], "Only these, with the specialists.")

# Settings over configs/distill.py of each row; its method is the first word.
GRID = {
    "joint": [{}],
    "separate": [{}],
    "feng": [
        {"distillation.teacher_temperature": t, "distillation.student_temperature": t}
        for t in (0.1, 0.2)
    ],
    "feng, domains apart": [
        {
            "distillation.domains_apart": True,
            "distillation.teacher_temperature": 0.2,
            "distillation.student_temperature": 0.2,
        }
    ],
    "absolute": [{"objectives.absolute": 10.0}],
    "relational": [{"objectives.relational": weight} for weight in (10.0, 30.0)],
    "udon": [{}, {"data.batch": "mixed"}],
}


class Features:
    """The features of every picture by split, and scores of linear layers over them."""

    def __init__(self, folder):
        import numpy as np
        import tensorflow as tf

        from universal_embedding.datasets.records import open_records
        from universal_embedding.models.backbones import load_backbone
        from universal_embedding.models.embedder import Embedder
        from universal_embedding.retrieval.sources import open_pairs
        from universal_embedding.training.features import cached_features

        embedder = Embedder(load_backbone(BACKBONE.value, 224), None, 224)
        strategy = tf.distribute.get_strategy()

        def compute(name, records):
            return cached_features(folder / name, records, embedder, strategy, 64)

        self.folder = folder / "train"
        self.width = embedder.output_dimension
        self.pairs = {s: open_pairs(DATA_DIR.value, "uned_mini", s) for s in ("val", "test")}
        self.records = {
            d: open_records(DATA_DIR.value, "uned_mini", d, "train") for d in self.pairs["test"]
        }
        self.train = {d: np.array(f) for d, f in compute("train", self.records).items()}
        self.queries, self.indexes = {}, {}
        for split, pairs in self.pairs.items():
            index = {d: pair.index for d, pair in pairs.items() if pair.index is not None}
            self.queries[split] = compute(split, {d: pair.queries for d, pair in pairs.items()})
            self.indexes[split] = compute(f"{split}-index", index) if index else {}

    def scores(self, split, embed, domains=None, protocols=("merged", "separate")):
        """Of `embed(domain, features)`, as `retrieval.evaluation.evaluate` gives them."""
        from universal_embedding.retrieval.evaluation import evaluate
        from universal_embedding.retrieval.gallery import DomainEmbeddings

        found = {}
        for domain in domains or self.records:
            pair = self.pairs[split][domain]
            parts = [embed(domain, self.queries[split][domain]), pair.queries.labels]
            if pair.index is not None:
                parts += [embed(domain, self.indexes[split][domain]), pair.index.labels]
                parts += [pair.queries.image_ids, pair.index.image_ids]
            found[domain] = DomainEmbeddings(*parts)
        return evaluate(found, protocols)


class Runs:
    """Trains settings, each in a folder of its own."""

    def __init__(self, features, folder):
        import keras

        self.features, self.folder, self.count = features, folder, 0
        # Only the backbone's width counts once its features are there: this one is quick to build.
        images = keras.Input((224, 224, 3))
        pooled = keras.layers.GlobalAveragePooling2D()(images)
        self.backbone = folder / "stand_in.keras"
        keras.Model(images, keras.layers.Dense(features.width)(pooled)).save(self.backbone)
        spec = importlib.util.spec_from_file_location(
            "distill", Path(__file__).parent.parent / "configs" / "distill.py"
        )
        self.recipe = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.recipe)

    def train(self, method, seed, setting, teacher_rows=None, domain=""):
        """The trained linear layer, `[N, F]` -> `[N, 64]`, and its validation score."""
        import numpy as np
        import tensorflow as tf

        from universal_embedding.training.run import Run
        from universal_embedding.training.trainer import SCORE, Trainer

        config = self.recipe.get_config(
            f"method={method},backbone={self.backbone}" + (f",domain={domain}" if domain else "")
        )
        config.seed = seed
        config.update_from_flattened_dict(setting)
        self.count += 1
        workdir = self.folder / f"{self.count}-{method}{domain}-{seed}"
        workdir.mkdir()
        (workdir / "features").symlink_to(self.features.folder.resolve())
        if teacher_rows:
            (workdir / "teachers").mkdir()
            for key, rows in teacher_rows.items():
                np.save(workdir / "teachers" / f"{key}.npy", rows)
        records = self.features.records
        records = {domain: records[domain]} if domain else records
        best = [-1.0, None]

        def validate(embedder, _):
            layer = linear(embedder.projection.kernel.numpy())
            protocols = ["separate"] if domain else ["merged"]
            scores = self.features.scores("val", lambda _, f: layer(f), records, protocols)
            score = scores[protocols[0]]["mean"]["r_at_1"]
            if score > best[0]:
                best[:] = score, layer
            return {SCORE: score}

        Trainer(Run(config, records, workdir, tf.distribute.get_strategy()), validate).run()
        return best[1], best[0]


def linear(kernel):
    """The embedding of features by a projection."""
    import numpy as np

    def embed(features):
        rows = features @ kernel
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    return embed


def main(_: list[str]) -> None:
    import numpy as np
    from uned_mini_table import line, report

    with tempfile.TemporaryDirectory() as folder:
        features = Features(Path(CACHE.value or f"{folder}/features"))
        runs = Runs(features, Path(folder))
        found = {"frozen": [(None, scores_of(features, linear(np.eye(features.width))))]}
        teachers = {}
        found["specialists + oracle"] = []
        for seed in range(SEEDS.value):
            layers = {d: runs.train("specialist", seed, {}, domain=d)[0] for d in features.records}
            teachers[seed] = {d: layer(features.train[d]) for d, layer in layers.items()}
            scores = features.scores(
                "test", lambda d, f, of=layers: of[d](f), protocols=["separate"]
            )
            # Of the oracle's two numbers there is one: it knows each query's domain.
            found["specialists + oracle"].append((None, {"merged": scores["separate"], **scores}))
        settings = {}
        for name in ROWS.value or GRID:
            tried, method = [], name.split(",")[0]
            for setting in GRID[name]:
                results = []
                for seed in range(SEEDS.value):
                    rows = teachers[seed] if method in runs.recipe.FROM_TEACHERS else None
                    layer, score = runs.train(method, seed, setting, rows)
                    results.append((score, scores_of(features, layer)))
                tried.append((np.mean([score for score, _ in results]), setting, results))
                print(f"{name} {setting}: {line(results)}; validation {tried[-1][0]:.4f}")
            _, settings[name], found[name] = max(tried, key=lambda t: t[0])
        report(list(features.records), found, settings)


def scores_of(features, layer):
    return features.scores("test", lambda _, f: layer(f))


if __name__ == "__main__":
    command.run(main)
