"""Fine-tuned specialists, universal models and distillation on uned_mini.

    universal-embedding prepare --manual_dir=PATH/TO/uned_mini
    python benchmarks/uned_mini_finetuned.py --backbone=PATH/TO/efficientnet_lite0.keras

Every model is the recipe `distill` with `finetune_steps` and the arguments of its row: first a
linear layer over features, then the last eleven blocks too, on small crops. In the second stage all
universal models see the same number of images, and all specialists together as many as one of them.
Features are computed once, and each seed's specialists embed the training images once. At the end,
the speed of training is measured with teachers that run on each batch, and with these cached
embeddings.
"""

import json
import time
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
from universal_embedding.evaluation.embed import embed_eval_sets, from_model, open_eval_sets
from universal_embedding.evaluation.evaluate import evaluate_domains
from universal_embedding.files import atomic_write
from universal_embedding.training.checkpoints import load_embedding_model
from universal_embedding.training.experiment import Experiment
from universal_embedding.training.run_directory import write_config
from universal_embedding.training.teachers import Teachers

DATA_DIR = flags.DEFINE_string("data_dir", default_data_dir(), "Directory of prepared datasets.")
BACKBONE = flags.DEFINE_string(
    "backbone",
    None,
    "Pretrained backbone that every model starts from: a .keras file.",
    required=True,
)
WORKDIR = flags.DEFINE_string(
    "workdir", "runs/finetuned", "Directory of the runs; finished ones in it are reused."
)
STEPS = flags.DEFINE_integer("steps", 960, "Fine-tuning steps of a universal model.", 1)
SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds; every model is trained with each.")
MODELS = flags.DEFINE_list("models", [], "Rows of the table to run; by default all.")
MEASURE_SPEED = flags.DEFINE_bool(
    "measure_speed", True, "Measure the speed of training with teachers at the end."
)

DATASET = "uned_mini"
ORACLE = "specialists + oracle"
# Arguments of the recipe `distill`, which holds every other value, for each row of the table.
UNIVERSAL_MODELS = {
    "joint": "method=joint",
    "distance_distribution": "method=distance_distribution",
    "distance": "method=distance",
    "rkd_distance": "method=rkd_distance",
    "udon": "method=udon",
    "udon (single-domain batches)": "method=udon,batching=per_domain",
    "separate": "method=separate",
    "UJCDS": "method=joint,batching=per_domain,sampler=dataset_size",
    "UJCRR": "method=joint,batching=per_domain,sampler=round_robin",
    "USCDS": "method=separate,batching=per_domain,sampler=dataset_size",
    "USCRR": "method=separate,batching=per_domain,sampler=round_robin",
}
SPEED_STEPS = 20


class Runner:
    """Trains and scores models of the dataset, in one directory per seed."""

    def __init__(self):
        self.eval_sets = {s: open_eval_sets(DATA_DIR.value, DATASET, s) for s in ("val", "test")}
        self.records = {
            domain: open_records(DATA_DIR.value, DATASET, domain, "train")
            for domain in self.eval_sets["test"]
        }
        self.features_folder = Path(WORKDIR.value) / "features"
        self.features_folder.mkdir(parents=True, exist_ok=True)

    def make_config(self, argument, seed, steps=0):
        teachers = seed_folder(seed) / "{domain}"
        argument += f",dataset={DATASET},backbone={BACKBONE.value}"
        argument += f",teachers={teachers},finetune_steps={steps or STEPS.value}"
        config = read_config_flag(f"distill:{argument}")
        config.seed = seed
        return config

    def run(self, name, config, domain=""):
        """Trains and scores a model, unless an earlier call did; returns its scores by split."""
        workdir = seed_folder(config.seed) / name
        scores_file = workdir / "scores.json"
        if not scores_file.exists():
            model = self.train(workdir, config)
            scores = {split: self.evaluate(model, split, domain) for split in self.eval_sets}
            with atomic_write(scores_file) as file:
                file.write(json.dumps(scores))
        return json.loads(scores_file.read_text())

    def train(self, workdir, config):
        keras.backend.clear_session()
        workdir.mkdir(parents=True, exist_ok=True)
        link(workdir / "features", self.features_folder)
        if config.distillation.teachers:
            link(workdir / "teachers", self.cache_teachers(config))
        records = {domain: self.records[domain] for domain in config.data.domains or self.records}
        strategy = tf.distribute.get_strategy()
        experiment = Experiment.from_config(config, records, workdir, strategy)
        write_config(workdir, config, experiment.data_summary())
        common.train_to_end(experiment)
        return load_embedding_model(workdir)

    def cache_teachers(self, config):
        """The directory with the embeddings of the training images by the seed's specialists."""
        self.run_specialists(config.seed)
        folder = seed_folder(config.seed) / "teacher_embeddings"
        teachers = Teachers(config.distillation.teachers, list(self.records))
        teachers.cached_embeddings(folder, self.records, tf.distribute.get_strategy())
        return folder

    def evaluate(self, model, split, domain=""):
        eval_sets = self.eval_sets[split]
        eval_sets = {domain: eval_sets[domain]} if domain else eval_sets
        return evaluate_domains(embed_eval_sets(from_model("model", model, 64), eval_sets))

    def run_specialists(self, seed):
        """Routes each query to its own domain's model and index.

        Returns:
            The validation score, and the test scores by protocol.
        """
        scores = {split: {} for split in self.eval_sets}
        steps = STEPS.value // len(self.records)
        for domain in self.records:
            config = self.make_config(f"method=specialist,domain={domain}", seed, steps)
            result = self.run(domain, config, domain)
            for split, by_domain in scores.items():
                by_domain[domain] = result[split]["separate"][domain]
        for by_domain in scores.values():
            metrics = [key for key in next(iter(by_domain.values())) if "_at_" in key]
            by_domain["mean"] = {
                metric: np.mean([domain[metric] for domain in by_domain.values()])
                for metric in metrics
            }
        # The oracle knows each query's domain, so both protocols have the same scores.
        test_scores = {"merged": scores["test"], "separate": scores["test"]}
        return scores["val"]["mean"]["r_at_1"], test_scores

    def run_universal(self, name, seed):
        """The validation score and the test scores by protocol of a row of the table."""
        result = self.run(name, self.make_config(UNIVERSAL_MODELS[name], seed))
        return result["val"]["merged"]["mean"]["r_at_1"], result["test"]

    def measure_speeds(self):
        """Training images per second by batching and kind of teachers (distance_distribution)."""
        rates = {}
        for batching in ("per_domain", "mixed"):
            for teachers in ("none", "cached", "live"):
                name = f"{batching} batches, teachers: {teachers}"
                rates[name] = self.measure_speed(batching, teachers)
        return rates

    def measure_speed(self, batching, teachers):
        keras.backend.clear_session()
        method = "joint" if teachers == "none" else "distance_distribution"
        config = self.make_config(f"method={method},batching={batching},sampler=round_robin", 0)
        config.stages = config.stages[1:]
        config.stages[0].steps = SPEED_STEPS
        config.distillation.cache_teachers = teachers == "cached"
        config.log_every_steps = config.steps_per_execution = 1
        config.evals.val.every_steps = SPEED_STEPS // 4
        workdir = Path(WORKDIR.value) / "speed" / f"{batching}-{teachers}-{time.time_ns()}"
        workdir.mkdir(parents=True)
        if teachers == "cached":
            link(workdir / "teachers", self.cache_teachers(config))
        strategy = tf.distribute.get_strategy()
        experiment = Experiment.from_config(config, self.records, workdir, strategy)
        stopwatch = Stopwatch()
        common.train_to_end(experiment, {"val": stopwatch})
        return stopwatch.images_per_second(config)


class Stopwatch:
    """Called by the trainer as an evaluator; records when each quarter of the steps ended."""

    def __init__(self):
        self.times = []

    def __call__(self, model, strategy):
        self.times.append(time.perf_counter())
        return {"merged/mean/r_at_1": 0.0}

    def images_per_second(self, config):
        """Speed without the first quarter, in which the step is compiled."""
        steps = config.evals.val.every_steps * (len(self.times) - 1)
        return steps * config.data.batch_size / (self.times[-1] - self.times[0])


def seed_folder(seed):
    """The directory of a seed's runs; other numbers of steps have another one."""
    return Path(WORKDIR.value) / f"{STEPS.value}-steps" / str(seed)


def link(path, target):
    if not path.exists():
        path.symlink_to(target.resolve())


def main():
    rows = [ORACLE, *UNIVERSAL_MODELS]
    names = MODELS.value or rows
    if unknown := set(names) - set(rows):
        raise UserError(f"--models={','.join(sorted(unknown))}; there are {', '.join(rows)}")
    runner, results = Runner(), {}
    for seed in map(int, SEEDS.value):
        for name in names:
            is_oracle = name == ORACLE
            result = runner.run_specialists(seed) if is_oracle else runner.run_universal(name, seed)
            results.setdefault(name, []).append(result)
            print(f"seed {seed}, {name}: {format_scores([result])}", flush=True)
    for name, seed_results in results.items():
        print(f"{name}: validation {np.mean([score for score, _ in seed_results]):.4f}")
    rates = runner.measure_speeds() if MEASURE_SPEED.value else {}
    for name, rate in rates.items():
        print(f"{name}: {rate:.1f} images per second")
    settings = {name: text for name, text in UNIVERSAL_MODELS.items() if name in names}
    print_report(list(runner.records), results, settings, images_per_second=rates)


if __name__ == "__main__":
    common.run(main)
