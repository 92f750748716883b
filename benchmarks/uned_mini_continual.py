"""New classes arrive in four steps on uned_mini: does the old index stay valid?

    universal-embedding prepare --manual_dir=PATH/TO/uned_mini
    python benchmarks/uned_mini_continual.py --backbone=PATH/TO/efficientnet_lite0.keras

With --stream=classes a quarter of each domain's training classes arrives at each step, with
--stream=domains two domains. Every model is a linear layer over features of the frozen backbone:
the recipe `distill:method=joint`. Each row of the table is a way to make the model of a step from
that of the step before; the models of the four steps are compared pairwise on the merged index of
all test images (`evaluation.compatibility`). Runs are kept in --workdir and not repeated.
"""

import dataclasses
import itertools
import json
from pathlib import Path

import common
import numpy as np
import tensorflow as tf
from absl import flags
from uned_mini_features import BACKBONE, DATASET, NUM_SEEDS, FeatureSet, RowEmbedder, linear_layer

from universal_embedding.commands.config_flag import read_config_flag
from universal_embedding.datasets.joined_records import JoinedRecords
from universal_embedding.errors import UserError
from universal_embedding.evaluation.alignment import fit_alignment
from universal_embedding.evaluation.compatibility import (
    compatibility_report,
    evaluate_compatibility,
)
from universal_embedding.evaluation.embeddings import DomainEmbeddings
from universal_embedding.evaluation.evaluate import EvaluationConfig, EvaluationResult
from universal_embedding.files import atomic_write
from universal_embedding.training.checkpoints import load_embedding_model
from universal_embedding.training.experiment import Experiment
from universal_embedding.training.feature_cache import FeatureCache
from universal_embedding.training.run_directory import write_config

WORKDIR = flags.DEFINE_string("workdir", "runs/continual", "Directory of the runs.")
STREAMS = flags.DEFINE_list("stream", ["classes", "domains"], "What arrives: classes, domains.")
METHODS = flags.DEFINE_list("methods", [], "Rows of the table; by default all.")
NUM_STEPS = flags.DEFINE_integer("train_steps", 1500, "Training steps of each model.", 1)

STEPS = 4
CONFIG = EvaluationConfig(("merged",), ("r_at_1", "mmp_at_5"), bootstrap_samples=0)
DETAILED = dataclasses.replace(CONFIG, bootstrap_samples=1000)


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to make the model of a step.

    Attributes:
        data: `all` images so far; `new` images alone; `replay`: half old ones, half new ones; None:
            the first model stays as it is.
        continues: Whether training starts from the model and the classes of the step before.
        compatible: Weight of the loss under the frozen classes of the step before.
        aligned: Whether a rotation onto the model of the step before is folded in.
    """

    data: str | None
    continues: bool = False
    compatible: float = 0.0
    aligned: bool = False


ROWS = {
    "retrain and re-embed": Method("all"),
    "fine-tune on new images": Method("new", continues=True),
    "frozen projection": Method(None),
    "Procrustes": Method("all", aligned=True),
    "BCT of weight 1": Method("all", compatible=1.0),
    "BCT of weight 4": Method("all", compatible=4.0),
    "continue on all images": Method("all", continues=True),
    "replay": Method("replay", continues=True),
    "continue + BCT of weight 1": Method("all", continues=True, compatible=1.0),
    "continue + BCT of weight 1 + Procrustes": Method(
        "all", continues=True, compatible=1.0, aligned=True
    ),
    "continue + BCT of weight 4": Method("all", continues=True, compatible=4.0),
    "continue + BCT of weight 4 + Procrustes": Method(
        "all", continues=True, compatible=4.0, aligned=True
    ),
    "replay + BCT of weight 1": Method("replay", continues=True, compatible=1.0),
}
UPPER_BOUND = "retrain and re-embed"


class Stream:
    """The training images of each step.

    Args:
        features: Features of all images.
        kind: `classes` or `domains`.
        seed: Of the order in which classes or domains arrive.
    """

    def __init__(self, features, kind, seed):
        self.features, self.kind = features, kind
        rng, domains = np.random.default_rng(seed), list(features.records)
        self.arrivals = []  # for each step {domain: rows of the training split}
        order = rng.permutation(len(domains))
        classes = {d: rng.permutation(np.unique(r.labels.values)) for d, r in _items(features)}
        for step in range(STEPS):
            arriving = {}
            for position, (domain, records) in enumerate(_items(features)):
                ids = np.array_split(classes[domain], STEPS)[step]
                if kind == "domains":
                    ids = classes[domain] if order[position] * STEPS // len(domains) == step else []
                rows = np.flatnonzero(np.isin(records.labels.values, ids))
                arriving |= {domain: rows} if len(rows) else {}
            self.arrivals.append(arriving)

    def records(self, step, data):
        """Records by domain, and the rows of the training split that they are."""
        old = [self.arrivals[i] for i in range(step)] if data in ("all", "replay") else []
        rows, records = {}, {}
        for domain, all_records in _items(self.features):
            before = [arriving[domain] for arriving in old if domain in arriving]
            now = self.arrivals[step].get(domain)
            parts = [np.concatenate(before) if before else None, now]
            rows_of = [part for part in parts if part is not None]
            if not rows_of:
                continue
            rows[domain] = np.concatenate(rows_of)
            selected = [None if part is None else all_records.select(part) for part in parts]
            is_joined = data == "replay"
            records[domain] = (
                JoinedRecords(selected) if is_joined else all_records.select(rows[domain])
            )
        return records, rows


def _items(features):
    return features.records.items()


class Runner:
    """Trains the models of a stream, each in a run directory of its own."""

    def __init__(self, features, stream, seed, folder):
        self.features, self.stream, self.seed, self.folder = features, stream, seed, folder
        [key_file] = list(features.train_folder.glob(f"{next(iter(features.records))}.key"))
        self.model_key = key_file.read_text("utf-8").split("\n")[1]

    def kernels(self, method):
        """`[F, 64]` projection of each step's model."""
        kernels, workdirs = [], []
        for step in range(STEPS):
            if step and method.data is None:
                kernels.append(kernels[-1])
                continue
            workdir = self.train(method if step else Method("all"), step, workdirs)
            kernel = load_embedding_model(workdir).projection.kernel.numpy()
            if step and method.aligned:
                kernel = kernel @ self.rotation(kernel, kernels[-1], step)
            workdirs.append(workdir)
            kernels.append(kernel)
        return kernels

    def rotation(self, new, old, step):
        """The rotation of new onto old embeddings of all images so far."""
        _, rows = self.stream.records(step, "all")
        features = np.concatenate([self.features.train[d][rows[d]] for d in rows])
        return fit_alignment(linear_layer(new)(features), linear_layer(old)(features))

    def train(self, method, step, before):
        """Trains one model; returns its run directory, in which a finished run is kept."""
        name = f"{method.data}-{method.continues}-{method.compatible}" if step else "first"
        workdir = self.folder / name / f"step{step}"
        if (workdir / "done").exists():
            return workdir
        config = read_config_flag(
            f"distill:method=joint,dataset={DATASET},backbone={BACKBONE.value}"
        )
        config.seed = self.seed * STEPS + step
        config.stages[0].steps = NUM_STEPS.value
        config.evals.val.every_steps = max(NUM_STEPS.value // 6, 1)
        if method.continues:
            config.init_from, config.init_head = str(before[-1]), True
        if method.compatible:
            config.losses.compatible.weight = method.compatible
            config.losses.compatible.run = str(before[-1])
        records, rows = self.stream.records(step, method.data)
        if method.data == "replay":
            config.data.dataset, config.data.replay = f"{DATASET}+new", 0.5
        workdir.mkdir(parents=True, exist_ok=True)
        strategy = tf.distribute.get_strategy()
        table = {domain: self.features.train[domain][rows[domain]] for domain in rows}
        cache = FeatureCache(workdir / "features", strategy)
        cache.compute(records, self.model_key, RowEmbedder(table), "", show_progress=False)
        experiment = Experiment.from_config(config, records, workdir, strategy)
        write_config(workdir, config, experiment.data_summary())

        def validate(model, strategy):
            layer = linear_layer(model.projection.kernel.numpy())
            scores = self.features.evaluate("val", lambda _, f: layer(f), None, ["merged"])
            return {"merged/mean/r_at_1": scores["merged"]["mean"]["r_at_1"]}

        common.train_to_end(experiment, {"val": validate})
        (workdir / "done").touch()
        return workdir

    def compare(self, kernels, split, config):
        """The report on compatibility of the models of all steps, and of each moved index."""
        results = [
            EvaluationResult(f"step {i}", self.embed(split, kernel), {})
            for i, kernel in enumerate(kernels)
        ]
        report = compatibility_report(evaluate_compatibility(results, config, ()), config)
        report["moved"] = [
            compatibility_report(evaluate_compatibility([old, new], CONFIG), CONFIG)["moved"]
            for old, new in itertools.pairwise(results)
        ]
        return report

    def embed(self, split, kernel):
        """Embeddings of a split's queries and indexes by domain."""
        layer, domains = linear_layer(kernel), {}
        for domain, eval_set in self.features.eval_sets[split].items():
            arguments = [layer(self.features.queries[split][domain]), eval_set.queries.labels]
            if eval_set.index is not None:
                arguments += [layer(self.features.indexes[split][domain]), eval_set.index.labels]
                arguments += [eval_set.queries.image_ids, eval_set.index.image_ids]
            domains[domain] = DomainEmbeddings(*arguments)
        return domains


def summarize(report):
    """The numbers of a row: shares, means and the worst cases over pairs and shares."""
    matrix = [[cell["value"] for cell in row] for row in report["matrix"]["r_at_1"]]
    gains = [matrix[i][j] - matrix[j][j] for i in range(STEPS) for j in range(i)]
    moved = [
        entry["r_at_1"]["value"] - matrix[i][i]
        for i, entries in enumerate(report["moved"])
        for entry in entries
    ]
    return {
        "AC": report["average_compatibility"]["r_at_1"],
        "AA": report["average_metric"]["r_at_1"],
        "AA mMP@5": report["average_metric"]["mmp_at_5"],
        "new/old - old/old, least": min(gains),
        "last new/new": matrix[-1][-1],
        "last new/new mMP@5": report["matrix"]["mmp_at_5"][-1][-1]["value"],
        "moved - old, least": min(moved),
    }


def main():
    names = METHODS.value or list(ROWS)
    if unknown := set(names) - set(ROWS) | set(STREAMS.value) - {"classes", "domains"}:
        raise UserError(f"{', '.join(sorted(unknown))} is neither a stream nor one of {[*ROWS]}")
    folder = Path(WORKDIR.value)
    features = FeatureSet(folder / "features")
    reports = {}
    for kind in STREAMS.value:
        for seed in range(NUM_SEEDS.value):
            stream = Stream(features, kind, seed)
            runner = Runner(features, stream, seed, folder / kind / str(seed))
            for name in names:
                path = runner.folder / f"{name}.json"
                if not path.exists():
                    kernels = runner.kernels(ROWS[name])
                    report = {
                        split: runner.compare(kernels, split, config)
                        for split, config in (("val", CONFIG), ("test", DETAILED))
                    }
                    with atomic_write(path) as file:
                        json.dump(report, file)
                report = json.loads(path.read_text())
                reports.setdefault(kind, {}).setdefault(name, []).append(report)
                print(f"{kind}, seed {seed}, {name}: {summarize(report['test'])}", flush=True)
    results = {}
    for kind, rows in reports.items():
        for split in ("val", "test"):
            print(f"\n{kind}, {split} split")
            for position, (name, by_seed) in enumerate(rows.items()):
                summaries = [summarize(report[split]) for report in by_seed]
                columns = list(summaries[0])
                if not position:
                    print(f"| | {' | '.join(columns)} |\n|---{'|---' * len(columns)}|")
                values = {c: [summary[c] for summary in summaries] for c in columns}
                results.setdefault(kind, {}).setdefault(split, {})[name] = values
                cells = [
                    f"{np.mean(v):.4f} ± {np.std(v, ddof=min(1, len(v) - 1)):.4f}"
                    for v in values.values()
                ]
                print(f"| {name} | {' | '.join(cells)} |")
    print()
    settings = {name: dataclasses.asdict(method) for name, method in ROWS.items() if name in names}
    common.print_json({"settings": settings, "results": results}, ("tensorflow", "keras"))


if __name__ == "__main__":
    common.run(main)
