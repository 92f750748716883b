"""Fine-tuned specialists, universal models and distillation on uned_mini.

    python tools/prepare.py --manual_dir=../shared/uned_mini
    python benchmarks/uned_mini_finetuned.py

Every model is configs/distill.py with `finetune`: a linear layer over features first, then the last
eleven blocks too, on small crops. Universal models see the same number of pictures in it, and all
the specialists together as many as one of them. Features are computed once, and each seed's
specialists embed the training pictures once. At the end: the speed of training with teachers run on
each batch, and with these embeddings.
"""

import importlib.util
import json
import sys
import time
from pathlib import Path

from absl import flags

from universal_embedding import command
from universal_embedding.datasets.location import default_data_dir
from universal_embedding.errors import UserError

DATA_DIR = flags.DEFINE_string("data_dir", default_data_dir(), "Folder of the prepared data sets.")
BACKBONE = flags.DEFINE_string(
    "backbone", "../shared/backbones/efficientnet_lite0.keras", "Where every model starts."
)
WORK = flags.DEFINE_string("work", "runs/finetuned", "Folder of the runs; what is in it is kept.")
STEPS = flags.DEFINE_integer("steps", 960, "Of fine-tuning a universal model.")
SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Each is a run of every model.")
CHOSEN = flags.DEFINE_list("models", None, "Rows of the table; all, where not given.")
SPEED = flags.DEFINE_bool("speed", True, "Whether to measure the teachers' speed at the end.")

# Method of configs/distill.py and settings over it; batches are mixed but for the last four.
DOMAIN_BATCHES = {"data.batch": "domain"}
MODELS = {
    "joint": ("joint", {}),
    "feng": (
        "feng",
        {"distillation.teacher_temperature": 0.2, "distillation.student_temperature": 0.2},
    ),
    "absolute": ("absolute", {"objectives.absolute": 10.0}),
    "relational": ("relational", {"objectives.relational": 30.0}),
    "udon": ("udon", {"data.batch": "mixed"}),
    "separate": ("separate", {}),
    "UJCDS": ("joint", {**DOMAIN_BATCHES, "data.sampler": "dataset_size"}),
    "UJCRR": ("joint", {**DOMAIN_BATCHES, "data.sampler": "round_robin"}),
    "USCDS": ("separate", {**DOMAIN_BATCHES, "data.sampler": "dataset_size"}),
    "USCRR": ("separate", {**DOMAIN_BATCHES, "data.sampler": "round_robin"}),
}
ORACLE = "specialists + oracle"
SPEED_STEPS = 20


class Bench:
    """Trains and scores models of one data set; a folder for each seed."""

    def __init__(self):
        from universal_embedding.datasets.records import open_records
        from universal_embedding.retrieval.sources import open_pairs

        path = Path(__file__).parent.parent / "configs" / "distill.py"
        spec = importlib.util.spec_from_file_location("distill", path)
        self.recipe = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.recipe)
        self.pairs = {s: open_pairs(DATA_DIR.value, "uned_mini", s) for s in ("val", "test")}
        self.records = {
            d: open_records(DATA_DIR.value, "uned_mini", d, "train") for d in self.pairs["test"]
        }
        self.features = Path(WORK.value) / "features"
        self.features.mkdir(parents=True, exist_ok=True)

    def config(self, method, seed, settings=None, domain="", steps=0):
        pattern = runs_of(seed) / "{domain}"
        argument = f"method={method},backbone={BACKBONE.value},teachers={pattern}"
        argument += f",finetune={steps or STEPS.value}"
        config = self.recipe.get_config(argument + (f",domain={domain}" if domain else ""))
        config.seed = seed
        config.update_from_flattened_dict(settings or {})
        return config

    def result(self, name, config, domain=""):
        """Scores of a model by split and protocol; of an earlier call, if they are there."""
        workdir = runs_of(config.seed) / name
        file = workdir / "scores.json"
        if not file.exists():
            embedder = self.train(workdir, config)
            found = {split: self.scores(embedder, split, domain) for split in self.pairs}
            file.write_text(json.dumps(found))
        return json.loads(file.read_text())

    def train(self, workdir, config):
        import keras
        import tensorflow as tf

        from universal_embedding.training.checkpoints import load_embedder
        from universal_embedding.training.run import Run
        from universal_embedding.training.trainer import Trainer
        from universal_embedding.training.work_directory import write_run

        keras.backend.clear_session()
        workdir.mkdir(parents=True, exist_ok=True)
        for link, target in (("features", self.features), ("teachers", self.taught(config))):
            if target and not (workdir / link).exists():
                (workdir / link).symlink_to(target.resolve())
        records = {d: self.records[d] for d in config.data.domains or self.records}
        run = Run(config, records, workdir, tf.distribute.get_strategy())
        write_run(workdir, config, run.facts())
        _to_the_end(Trainer(run))
        return load_embedder(workdir)

    def taught(self, config):
        """What the seed's specialists make of the training pictures, or None without them."""
        import tensorflow as tf

        from universal_embedding.training.teachers import Teachers

        if not config.distillation.teachers:
            return None
        self.specialists(config.seed)
        folder = runs_of(config.seed) / "taught"
        teachers = Teachers(config.distillation.teachers, list(self.records))
        teachers.cached(folder, self.records, tf.distribute.get_strategy())
        return folder

    def scores(self, embedder, split, domain=""):
        from universal_embedding.retrieval.evaluation import evaluate
        from universal_embedding.retrieval.sources import embed_pairs, of_embedder

        pairs = self.pairs[split]
        pairs = {domain: pairs[domain]} if domain else pairs
        return evaluate(embed_pairs(of_embedder("model", embedder, 64), pairs))

    def specialists(self, seed):
        """Each query by its own domain's model in its own domain's index: `[val, test]` scores."""
        import numpy as np

        found = {split: {} for split in self.pairs}
        for domain in self.records:
            steps = STEPS.value // len(self.records)
            config = self.config("specialist", seed, domain=domain, steps=steps)
            result = self.result(domain, config, domain)
            for split in found:
                found[split][domain] = result[split]["separate"][domain]
        for scores in found.values():
            keys = next(iter(scores.values()))
            numbers = [k for k in keys if k.startswith(("r_at", "mmp_at"))]
            scores["mean"] = {k: np.mean([of[k] for of in scores.values()]) for k in numbers}
        # Of the oracle's two protocols there is one: it knows each query's domain.
        return found["val"]["mean"]["r_at_1"], {
            "merged": found["test"],
            "separate": found["test"],
        }

    def universal(self, name, seed):
        method, settings = MODELS[name]
        result = self.result(name, self.config(method, seed, settings))
        return result["val"]["merged"]["mean"]["r_at_1"], result["test"]

    def speed(self):
        """Pictures per second of training with Feng's loss, by batch and kind of teachers."""
        import keras
        import tensorflow as tf

        from universal_embedding.training.run import Run
        from universal_embedding.training.trainer import Trainer

        found = {}
        for batch in ("domain", "mixed"):
            for kind in ("none", "stored", "live"):
                keras.backend.clear_session()
                config = self.config("joint" if kind == "none" else "feng", 0)
                config.stages = config.stages[1:]
                config.stages[0].steps = SPEED_STEPS
                config.data.batch, config.data.sampler = batch, "round_robin"
                config.distillation.once = kind == "stored"
                config.log_every = config.steps_per_call = 1
                clock = _Clock()
                workdir = Path(WORK.value) / "speed" / f"{batch}-{kind}-{time.time_ns()}"
                workdir.mkdir(parents=True)
                if kind == "stored":
                    (workdir / "teachers").symlink_to(self.taught(config).resolve())
                config.validate_every = SPEED_STEPS // 4
                run = Run(config, self.records, workdir, tf.distribute.get_strategy())
                _to_the_end(Trainer(run, clock))
                found[f"{batch} batches, {kind}"] = clock.rate(config)
        return found


def runs_of(seed):
    """The folder of a seed's runs, by steps: no score is taken for that of other steps."""
    return Path(WORK.value) / f"{STEPS.value}-steps" / str(seed)


def _to_the_end(trainer):
    if not trainer.run():
        sys.exit("stopped by a signal; the same command goes on")


class _Clock:
    """In the place of a validation: when each quarter of the steps was over."""

    def __init__(self):
        self.times = []

    def __call__(self, *_):
        self.times.append(time.perf_counter())
        return {"merged/mean/r_at_1": 0.0}

    def rate(self, config):
        """Pictures per second, the first quarter left out: it compiles."""
        steps = config.validate_every * (len(self.times) - 1)
        return steps * config.data.batch_size / (self.times[-1] - self.times[0])


def main(_: list[str]) -> None:
    import numpy as np
    from uned_mini_table import line, report

    rows = [ORACLE, *MODELS]
    chosen = CHOSEN.value or rows
    if unknown := set(chosen) - set(rows):
        raise UserError(f"--models={','.join(sorted(unknown))}; there are {', '.join(rows)}")
    bench, found = Bench(), {}
    for seed in map(int, SEEDS.value):
        for name in chosen:
            result = bench.specialists(seed) if name == ORACLE else bench.universal(name, seed)
            found.setdefault(name, []).append(result)
            print(f"seed {seed}, {name}: {line([result])}", flush=True)
    for name, results in found.items():
        print(f"{name}: validation {np.mean([validation for validation, _ in results]):.4f}")
    rates = bench.speed() if SPEED.value else {}
    for name, rate in rates.items():
        print(f"{name}: {rate:.1f} pictures per second")
    settings = {n: {**of, "method": method} for n, (method, of) in MODELS.items() if n in chosen}
    report(list(bench.records), found, {**settings, "pictures_per_s": rates})


if __name__ == "__main__":
    command.run(main)
