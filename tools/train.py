"""Trains an embedding: `tools/train.py --config=configs/uned_mini.py --workdir=DIR`.

The same command goes on with a run that was stopped. Fields of the config are set on the command
line, as in --config.data.batch_size=64 or --config.stages[0].steps=100.
"""

import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags
from universal_embedding.datasets.location import default_data_dir

from universal_embedding import command
from universal_embedding.errors import UserError

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file, `configs/NAME.py[:ARGUMENT]`."
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, config, metrics.")
DATA_DIR = flags.DEFINE_string("data_dir", default_data_dir(), "Folder of the prepared data sets.")
STRATEGY = flags.DEFINE_enum(
    "strategy", "one_device", ["one_device", "mirrored", "multi_worker"], "Where to compute."
)
TPU = flags.DEFINE_string("tpu", "", "`local`, or a TPU's name or address; instead of --strategy.")
INIT_FROM = flags.DEFINE_string("init_from", None, "Work directory whose embedder is started from.")
flags.mark_flags_as_required(["config", "workdir"])


def main(_: list[str]) -> None:
    try:
        config = CONFIG.value
        config.seed  # noqa: B018  a file that cannot be loaded shows itself at the first access
    except OSError as error:
        raise UserError(f"--config={flags.FLAGS['config'].value}: {error}") from error

    from universal_embedding.training.strategy import make_strategy

    strategy = make_strategy("tpu" if TPU.value else STRATEGY.value, TPU.value)

    from universal_embedding.retrieval.training_run import train

    init_from = Path(INIT_FROM.value) if INIT_FROM.value else None
    finished = train(config, Path(DATA_DIR.value), Path(WORKDIR.value), strategy, init_from)
    if not finished:
        sys.exit(0)
    print(
        f"the run is in {WORKDIR.value}; score it with tools/evaluate.py --workdir={WORKDIR.value}"
    )


if __name__ == "__main__":
    command.run(main)
