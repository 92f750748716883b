"""Trains an embedding: `tools/train.py --config=configs/uned_mini.py --workdir=DIR`.

The same command goes on with a run that was stopped. Fields of the config are set on the command
line, as in --config.data.batch_size=64 or --config.stages[0].steps=100.
"""

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from universal_embedding import command
from universal_embedding.datasets.location import default_data_dir
from universal_embedding.errors import UserError

CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, `NAME.py[:ARGUMENT]`.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, config, metrics.")
DATA_DIR = flags.DEFINE_string("data_dir", default_data_dir(), "Folder of the prepared data sets.")
STRATEGY = flags.DEFINE_enum(
    "strategy", "one_device", ["one_device", "mirrored", "multi_worker"], "Where to compute."
)
TPU = flags.DEFINE_string("tpu", "", "`local`, or a TPU's name or address; instead of --strategy.")
INIT_FROM = flags.DEFINE_string("init_from", None, "Work directory whose embedder to start from.")
DETERMINISTIC = flags.DEFINE_bool("deterministic", False, "Only ops that repeat bit for bit.")
flags.mark_flags_as_required(["config", "workdir"])


def main(_: list[str]) -> None:
    config = _config()
    workdir, data_dir = Path(WORKDIR.value), Path(DATA_DIR.value)

    from universal_embedding.training.strategy import make_strategy

    strategy = make_strategy("tpu" if TPU.value else STRATEGY.value, TPU.value)
    if DETERMINISTIC.value:
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()

    from universal_embedding.datasets.records import open_records
    from universal_embedding.retrieval.sources import open_pairs
    from universal_embedding.retrieval.validation import Validation
    from universal_embedding.training.run import Run
    from universal_embedding.training.trainer import Trainer
    from universal_embedding.training.work_directory import write_run

    pairs = open_pairs(str(data_dir), config.data.dataset, "val", config.data.domains)
    records = {key: open_records(data_dir, config.data.dataset, key, "train") for key in pairs}
    run = Run(config, records, workdir, strategy)
    write_run(workdir, config, run.facts() | {"data_dir": str(data_dir.resolve())})
    init_from = Path(INIT_FROM.value) if INIT_FROM.value else None
    validation = Validation(pairs)
    if Trainer(run, validation, init_from, validation.pictures).run():
        print(f"trained: {workdir}\nscore it with tools/evaluate.py --workdir={workdir}")


def _config() -> object:
    config = CONFIG.value
    try:
        config.lock()
    except OSError as error:  # raised at the first use of a file that is not there
        reason = str(error).splitlines()[-1].strip()
        raise UserError(
            f"--config cannot be read: {reason}; give a file such as configs/uned.py"
        ) from error
    return config


if __name__ == "__main__":
    command.run(main)
