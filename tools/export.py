"""Writes a trained embedder as a SavedModel and as a zip for Kaggle's scorer.

python tools/export.py --workdir=DIR --output=submission.zip [--saved_model=DIR]
"""

from absl import flags

from universal_embedding import command
from universal_embedding.errors import UserError

WORKDIR = flags.DEFINE_string("workdir", None, "Work directory that tools/train.py wrote.")
CHECKPOINT = flags.DEFINE_enum("checkpoint", "best", ["best", "last"], "Which checkpoint.")
OUTPUT = flags.DEFINE_string("output", None, "The zip to write.")
SAVED_MODEL = flags.DEFINE_string("saved_model", None, "Directory for the SavedModel.")
FLOAT16 = flags.DEFINE_bool("float16", False, "Keep kernels in float16: half the size.")
REPORT = flags.DEFINE_string("report", None, "report.json of tools/evaluate.py, for the card.")


def main(argv: list[str]) -> None:
    del argv
    if not WORKDIR.value:
        raise UserError("--workdir is missing: name a work directory of tools/train.py")
    if not OUTPUT.value and not SAVED_MODEL.value:
        raise UserError("nothing to write: give --output=submission.zip, --saved_model=DIR or both")
    from universal_embedding.export.exporting import export

    lines = export(
        WORKDIR.value,
        OUTPUT.value,
        SAVED_MODEL.value,
        CHECKPOINT.value,
        FLOAT16.value,
        REPORT.value,
    )
    print("\n".join(lines))


if __name__ == "__main__":
    command.run(main)
