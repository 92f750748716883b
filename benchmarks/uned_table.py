"""UnED's table in one command: what is on the shelf, specialists, universal models, distillation.

    universal-embedding prepare --manual_dir=IMAGES --dataset=uned
    python benchmarks/uned_table.py --workdir=runs/uned_table --strategy=mirrored

Rows: each of --backbones as it is and reduced to 64 dimensions by PCA; then, from the first one,
the eight specialists with the oracle, the four universal variants, UDON, and distance-distribution
distillation (Feng et al.) from the specialists, trained by the recipe `uned`. Not run: it needs
UnED's 2.8 million training images.

--runlocal is the whole table on uned_mini, in minutes on 2 CPU cores: the same rows by the recipe
`distill`, each a linear layer over features of the frozen first backbone, which are computed once.

    universal-embedding prepare --manual_dir=PATH/TO/uned_mini
    python benchmarks/uned_table.py --runlocal --backbones=PATH/TO/efficientnet_lite0.keras

Finished rows are kept in --workdir and skipped by the next start; after Ctrl-C, or a kill, the row
that was interrupted resumes from its checkpoint.
"""

from pathlib import Path

import common
from absl import flags
from figures import METRICS, PROTOCOLS
from uned_figures import uned_table
from uned_runs import ORACLE, Runner

from universal_embedding.commands.config_flag import read_config_flag
from universal_embedding.datasets.records import default_data_dir
from universal_embedding.errors import UserError
from universal_embedding.evaluation.evaluate import EvaluationConfig
from universal_embedding.evaluation.statistics import BOOTSTRAP_SAMPLES, summarize
from universal_embedding.evaluation.transforms import evaluate_transforms
from universal_embedding.models.backbones import load_backbone
from universal_embedding.models.embedding_model import EmbeddingModel
from universal_embedding.training.strategy import make_strategy

DATA_DIR = flags.DEFINE_string("data_dir", default_data_dir(), "Directory of prepared datasets.")
WORKDIR = flags.DEFINE_string("workdir", "runs/uned_table", "Directory of the runs and scores.")
BACKBONES = flags.DEFINE_list(
    "backbones",
    ["vit_base_patch16_224_imagenet21k"],
    "Backbones measured off the shelf; models are trained from the first.",
)
ROWS = flags.DEFINE_list("rows", [], "Trained rows; by default all.")
RUNLOCAL = flags.DEFINE_bool("runlocal", False, "The whole table on uned_mini, in minutes.")
STRATEGY = flags.DEFINE_enum(
    "strategy", "one_device", ["one_device", "mirrored", "tpu"], "one_device, mirrored or tpu."
)
TPU = flags.DEFINE_string("tpu", "", "With --strategy=tpu: `local`, or a TPU's name or address.")

EMBEDDING_DIM, IMAGE_SIZE = 64, 224
# Arguments of the recipe `uned`, and with --runlocal of the recipe `distill`.
UNIVERSAL_MODELS = {
    "UJCDS": ("variant=UJCDS", "method=joint,batching=per_domain,sampler=dataset_size"),
    "UJCRR": ("variant=UJCRR", "method=joint,batching=per_domain,sampler=round_robin"),
    "USCDS": ("variant=USCDS", "method=separate,batching=per_domain,sampler=dataset_size"),
    "USCRR": ("variant=USCRR", "method=separate,batching=per_domain,sampler=round_robin"),
    "UDON": ("variant=UDON", "method=udon,batching=per_domain"),
    "distance_distribution": (
        "variant=distance_distribution",
        "method=distance_distribution,batching=per_domain,sampler=round_robin",
    ),
}


class TableRunner(Runner):
    """Trains and scores the rows of the table."""

    def __init__(self):
        dataset = "uned_mini" if RUNLOCAL.value else "uned"
        self.backbones = {Path(spec).stem: spec for spec in BACKBONES.value}
        if len(self.backbones) < len(BACKBONES.value):
            raise UserError(f"--backbones={','.join(BACKBONES.value)} has two of one name")
        self.trained = BACKBONES.value[0]
        folder = Path(WORKDIR.value) / dataset / Path(self.trained).stem
        super().__init__(
            DATA_DIR.value,
            dataset,
            folder,
            folder / "features",
            make_strategy(STRATEGY.value, TPU.value),
            validates=True,
            bootstrap_samples=BOOTSTRAP_SAMPLES,
        )

    def make_config(self, name):
        arguments = UNIVERSAL_MODELS[name]
        if name == "distance_distribution":
            arguments = [f"{text},teachers={self.folder}/{{domain}}" for text in arguments]
        return self.recipe(*arguments)

    def make_specialist(self, domain):
        return self.recipe(f"domain={domain}", f"method=specialist,domain={domain}")

    def recipe(self, full, local):
        """The config of a row from its two arguments."""
        recipe, argument = ("distill", local) if RUNLOCAL.value else ("uned", full)
        return read_config_flag(f"{recipe}:{argument},backbone={self.trained}")

    def run_off_the_shelf(self, name, spec):
        """Scores by row of a backbone as it is, and reduced by PCA of the training images."""
        rows = [name, f"{name}, pca {EMBEDDING_DIM}"]

        def compute():
            with self.strategy.scope():
                backbone = load_backbone(spec, IMAGE_SIZE)
                model = EmbeddingModel(backbone, None, IMAGE_SIZE)
            # Features of the backbone that is trained serve its linear layers too.
            is_cached = RUNLOCAL.value and spec == self.trained
            source = self.make_source(name, model, is_cached)
            methods, records = ("none", "pca"), list(self.records.values())
            results = evaluate_transforms(
                source,
                self.eval_sets["test"],
                EvaluationConfig(PROTOCOLS, METRICS),
                records,
                methods,
                EMBEDDING_DIM,
            )
            return {
                row: {p: summarize(r, BOOTSTRAP_SAMPLES) for p, r in result.results.items()}
                for row, result in zip(rows, results, strict=True)
            }

        return self.scores(f"off the shelf/{name}", compute, {})


def main():
    trained = [ORACLE, *UNIVERSAL_MODELS]
    names = ROWS.value or trained
    if unknown := set(names) - set(trained):
        raise UserError(f"--rows={','.join(sorted(unknown))}; there are {', '.join(trained)}")
    if RUNLOCAL.value and not BACKBONES.present:
        raise UserError("--runlocal needs --backbones: Keras files of pretrained backbones")
    runner, results, validation = TableRunner(), {}, {}
    for name, spec in runner.backbones.items():
        results |= runner.run_off_the_shelf(name, spec)
        print(f"{name}: done", flush=True)
    for name in names:
        scores = runner.run_row(name)
        results[name] = scores["test"]
        validation[name] = scores["val"]["merged"]["mean"]["r_at_1"]
        print(f"{name}: done, validation {validation[name]:.4f}", flush=True)
    record = {"results": results, "validation": validation}
    print(f"\n{uned_table(record)}\n")
    common.print_json(record)


if __name__ == "__main__":
    common.run(main)
