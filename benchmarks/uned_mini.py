"""Recipes on uned_mini as a user trains them, by the command line, and the minutes that each takes.

    universal-embedding prepare --manual_dir=PATH/TO/uned_mini
    python benchmarks/uned_mini.py --backbone=PATH/TO/efficientnet_lite0.keras

Each recipe is trained once per seed and evaluated on the test split; minutes are those of the
command `train` from its start to its end, the mean of the seeds.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common
from absl import flags
from figures import METRICS, PROTOCOLS

from universal_embedding.datasets.records import default_data_dir
from universal_embedding.errors import UserError

DATA_DIR = flags.DEFINE_string("data_dir", default_data_dir(), "Directory of prepared datasets.")
BACKBONE = flags.DEFINE_string(
    "backbone",
    None,
    "Pretrained backbone that every recipe starts from: a .keras file.",
    required=True,
)
RECIPES = flags.DEFINE_list("recipes", ["linear_probe", "uned_mini"], "Recipes, as in configs/.")
SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds; every recipe is trained with each.")


def run_verb(verb, *arguments):
    """Runs `universal-embedding VERB --data_dir=... ARGUMENTS` and returns its minutes."""
    command = [sys.executable, "-m", "universal_embedding", verb, f"--data_dir={DATA_DIR.value}"]
    start = time.perf_counter()
    done = subprocess.run([*command, *arguments], stdout=sys.stderr)
    if done.returncode:
        raise UserError(f"`{verb}` ended with exit code {done.returncode}")
    return (time.perf_counter() - start) / 60


def train_and_evaluate(recipe, seed, folder):
    """The minutes of the training, and the report of the evaluation."""
    config = f"--config={recipe}:backbone={BACKBONE.value}"
    workdir = f"--workdir={folder}/run"
    minutes = run_verb("train", config, workdir, f"--config.seed={seed}")
    run_verb("evaluate", f"--model={folder}/run", f"--output={folder}/report", "--num_examples=0")
    return minutes, json.loads((Path(folder) / "report/report.json").read_text())


def main():
    results, minutes = {}, {}
    for recipe in RECIPES.value:
        runs = []
        for seed in SEEDS.value:
            with tempfile.TemporaryDirectory() as folder:
                runs.append(train_and_evaluate(recipe, seed, folder))
        reports = [report for _, report in runs]
        minutes[recipe] = sum(taken for taken, _ in runs) / len(runs)
        results[recipe] = {
            protocol: {
                key: {metric: [r[protocol][key][metric] for r in reports] for metric in METRICS}
                for key in reports[0][protocol]
            }
            for protocol in PROTOCOLS
        }
        mean = reports[0]["merged"]["mean"]
        print(f"{recipe}: {minutes[recipe]:.1f} min, {mean['r_at_1']:.4f} {mean['mmp_at_5']:.4f}")
    common.print_json({"results": results, "minutes": minutes})


if __name__ == "__main__":
    common.run(main)
