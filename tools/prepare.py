"""Prepares pictures on disk as TFDS records: DATA_DIR/<dataset>/<domain>/<version>.

    python tools/prepare.py --manual_dir=../shared/uned_mini      # any tree in UnED's layout
    python tools/prepare.py --dataset=uned --manual_dir=DIR --domains=cars,sop
    python tools/prepare.py --dataset=guie --manual_dir=DIR       # the challenge's training sets
    python tools/prepare.py --dataset=folder --manual_dir=DIR     # DIR/<class>/<picture>
    python tools/prepare.py --dataset=uned --verify               # re-reads what is prepared

What is prepared already stays as it is. In several processes, or on a cluster with shared files:
--beam_pipeline_options=runner=DirectRunner,direct_num_workers=2,direct_running_mode=multi_processing
"""

import os
from pathlib import Path

from absl import flags, logging

from universal_embedding import command
from universal_embedding.datasets.location import default_data_dir
from universal_embedding.errors import UserError

MANUAL_DIR = flags.DEFINE_string(
    "manual_dir", None, "The folder of the pictures. Without it nothing is prepared."
)
DATA_DIR = flags.DEFINE_string("data_dir", default_data_dir(), "Where the records go.")
DATASET = flags.DEFINE_string(
    "dataset", None, "uned, guie, folder, or a name of your own for a tree in UnED's layout; by "
    "default the manual folder's name."
)  # fmt: skip
DOMAINS = flags.DEFINE_list("domains", [], "Only these domains; all by default.")
SKIP_BROKEN = flags.DEFINE_bool(
    "skip_broken", False, "Leave out, count and list pictures that cannot be decoded."
)
VERIFY = flags.DEFINE_bool("verify", False, "Re-read the records: number, labels, decodability.")
PREVIEW = flags.DEFINE_string("preview", None, "FILE.png for a sheet of sample pictures.")
BEAM = flags.DEFINE_string(
    "beam_pipeline_options", None, "Prepare with Apache Beam: its own options, comma-separated."
)

OPTIONS = [  # each with the default that GuieOptions and FolderOptions have
    flags.DEFINE_bool("allow_partial", None, "uned, guie: accept other than published counts."),
    flags.DEFINE_integer("max_per_class", None, "guie: at most so many pictures of a class.", 1),
    flags.DEFINE_integer("landmark_classes", None, "guie: so many most frequent landmarks.", 1),
    flags.DEFINE_bool("disjoint_classes", None, "guie: val has classes of its own."),
    flags.DEFINE_string("csv", None, "folder: a file of path,label[,split]."),
    flags.DEFINE_float("val_fraction", None, "guie, folder: share of val.", 0.0, 0.9),
    flags.DEFINE_float("test_fraction", None, "folder: share of the test classes.", 0.0, 0.9),
    flags.DEFINE_float(
        "index_fraction", None, "folder: share of test pictures for an own index.", 0.0, 0.9
    ),
    flags.DEFINE_integer("seed", None, "guie, folder: seed of every choice.", 0),
]


def main(argv: list[str]) -> None:
    del argv
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")  # nothing here is for a GPU
    logging.set_verbosity(logging.WARNING)  # TFDS has much to say
    data_dir = Path(DATA_DIR.value).expanduser()
    if MANUAL_DIR.value:
        dataset, keys = _prepare(data_dir)
    else:
        dataset, keys = _prepared(data_dir)
    from universal_embedding.datasets import preparation, preview, records

    print(preparation.table(preparation.summary(data_dir, dataset, keys)))
    if VERIFY.value:
        from universal_embedding.datasets import verification

        for key in keys:
            folder = records.prepared_folder(data_dir, dataset, key)
            print(f"{dataset}/{key}: {verification.verify(folder, key, True):,} pictures verified")
    if PREVIEW.value:
        preview.write(Path(PREVIEW.value), data_dir, dataset, keys)
        print(f"wrote {PREVIEW.value}")


def _prepare(data_dir: Path) -> tuple[str, list[str]]:
    """Prepares what is missing; returns the data set and its domains."""
    manual_dir = Path(MANUAL_DIR.value).expanduser().resolve()
    if not manual_dir.is_dir():
        raise UserError(f"--manual_dir={MANUAL_DIR.value} is no folder: put the pictures there")
    from universal_embedding.datasets import catalogue, preparation

    dataset = DATASET.value or manual_dir.name
    keys = catalogue.domain_keys(dataset, manual_dir, DOMAINS.value)
    options = {flag.name: flag.value for flag in OPTIONS if flag.value is not None}
    builders = [
        catalogue.builder(
            dataset, key, options, data_dir=data_dir, skip_broken=SKIP_BROKEN.value, progress=True
        )
        for key in keys
    ]
    for builder in builders:
        done = preparation.prepare(builder, manual_dir, BEAM.value)
        print(f"{dataset}/{builder.builder_config.name}: {'' if done else 'already '}prepared")
    return dataset, keys


def _prepared(data_dir: Path) -> tuple[str, list[str]]:
    """The data set and the domains that are prepared already."""
    if not DATASET.value or not (VERIFY.value or PREVIEW.value):
        raise UserError(
            "give --manual_dir to prepare, or --dataset and --verify or --preview to look at what "
            "is prepared"
        )
    from universal_embedding.datasets import records

    return DATASET.value, DOMAINS.value or records.prepared_domains(data_dir, DATASET.value)


if __name__ == "__main__":
    command.run(main)
