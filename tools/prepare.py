"""Prepares pictures on disk as TFDS records.

python tools/prepare.py --manual_dir=../shared/uned_mini --data_dir=data
"""

from pathlib import Path

from absl import flags, logging

from universal_embedding import command
from universal_embedding.datasets.location import default_data_dir
from universal_embedding.errors import UserError

MANUAL_DIR = flags.DEFINE_string(
    "manual_dir",
    None,
    "The folder with the pictures, such as images/ and info_files/.",
    required=True,
)
DATA_DIR = flags.DEFINE_string("data_dir", default_data_dir(), "Where the records go.")
DATASET = flags.DEFINE_string("dataset", None, "The data set's name; by default the folder's.")
DOMAINS = flags.DEFINE_list("domains", [], "Only these domains; all by default.")
SKIP_BROKEN = flags.DEFINE_bool(
    "skip_broken", False, "Leave out, count and list pictures that cannot be decoded."
)


def main(argv: list[str]) -> None:
    del argv
    manual_dir = Path(MANUAL_DIR.value).expanduser().resolve()
    if not manual_dir.is_dir():
        raise UserError(f"--manual_dir={MANUAL_DIR.value} is no folder: put the pictures there")
    from universal_embedding.datasets import domains, info_files, preparation, trees

    dataset = DATASET.value or manual_dir.name
    keys = DOMAINS.value or info_files.domain_keys(manual_dir / info_files.INFO_FILES)
    for key in domains.in_order(keys):
        builder = trees.tree_builder(
            dataset, key, data_dir=DATA_DIR.value, skip_broken=SKIP_BROKEN.value, progress=True
        )
        done = preparation.prepare(builder, manual_dir)
        print(f"{dataset}/{key}: {'prepared' if done else 'was prepared before'}")
    print(preparation.table(preparation.summary(Path(DATA_DIR.value), dataset, keys)))


if __name__ == "__main__":
    command.run(main)
