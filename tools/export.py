"""Writes a trained embedder as a SavedModel and as a zip for Kaggle's scorer.

python tools/export.py --workdir=DIR --output=submission.zip [--saved_model=DIR]
"""

from absl import flags

from universal_embedding import command
from universal_embedding.errors import UserError

WORKDIR = flags.DEFINE_string("workdir", None, "Work directory that tools/train.py wrote.")
WHICH = flags.DEFINE_string("which", "best", "Which checkpoint: best or last.")
OUTPUT = flags.DEFINE_string("output", None, "The zip to write.")
SAVED_MODEL = flags.DEFINE_string("saved_model", None, "Directory for the SavedModel.")
FLOAT16 = flags.DEFINE_bool("float16", False, "Keep kernels in float16: half the size.")


def main(argv: list[str]) -> None:
    del argv
    if not WORKDIR.value:
        raise UserError("--workdir is missing: name a work directory of tools/train.py")
    if not OUTPUT.value and not SAVED_MODEL.value:
        raise UserError("nothing to write: give --output=submission.zip, --saved_model=DIR or both")
    from universal_embedding.export import saved_model, submission
    from universal_embedding.training.checkpoints import load_embedder

    embedder = load_embedder(WORKDIR.value, WHICH.value)
    if OUTPUT.value:
        submission.write(embedder, OUTPUT.value, SAVED_MODEL.value, FLOAT16.value)
    else:
        saved_model.save(embedder, SAVED_MODEL.value, FLOAT16.value)
    for path in filter(None, (OUTPUT.value, SAVED_MODEL.value)):
        print(f"wrote {path}")


if __name__ == "__main__":
    command.run(main)
