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

import time
from pathlib import Path

import common
import keras
import numpy as np
import tensorflow as tf
from absl import flags
from uned_mini_table import format_scores, print_report
from uned_runs import ORACLE, Runner, link

from universal_embedding.commands.config_flag import read_config_flag
from universal_embedding.datasets.records import default_data_dir
from universal_embedding.errors import UserError
from universal_embedding.training.experiment import Experiment

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


class FinetunedRunner(Runner):
    """Trains and scores a seed's models; other numbers of steps have another directory."""

    def __init__(self, seed):
        workdir = Path(WORKDIR.value)
        folder = workdir / f"{STEPS.value}-steps" / str(seed)
        super().__init__(DATA_DIR.value, DATASET, folder, workdir / "features")
        self.seed = seed

    def make_config(self, name):
        return self.recipe(UNIVERSAL_MODELS[name])

    def make_specialist(self, domain):
        steps = STEPS.value // len(self.records)
        return self.recipe(f"method=specialist,domain={domain}", steps)

    def recipe(self, argument, steps=0):
        """The recipe `distill` with an argument."""
        argument += f",dataset={DATASET},backbone={BACKBONE.value}"
        argument += f",teachers={self.folder}/{{domain}},finetune_steps={steps or STEPS.value}"
        config = read_config_flag(f"distill:{argument}")
        config.seed = self.seed
        return config

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
        self.run_row(ORACLE)
        config = self.recipe(f"method={method},batching={batching},sampler=round_robin")
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


def main():
    rows = [ORACLE, *UNIVERSAL_MODELS]
    names = MODELS.value or rows
    if unknown := set(names) - set(rows):
        raise UserError(f"--models={','.join(sorted(unknown))}; there are {', '.join(rows)}")
    results = {}
    for seed in map(int, SEEDS.value):
        runner = FinetunedRunner(seed)
        for name in names:
            scores = runner.run_row(name)
            result = (scores["val"]["merged"]["mean"]["r_at_1"], scores["test"])
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
