"""Convert images to records that TFDS reads: DATA_DIR/<dataset>/<domain>/<version>.

  universal-embedding prepare --manual_dir=IMAGES --dataset=uned     the UnED benchmark
  universal-embedding prepare --manual_dir=IMAGES --dataset=guie     the challenge's training sets
  universal-embedding prepare --manual_dir=IMAGES --dataset=folder   IMAGES/<class>/<image>
  universal-embedding prepare --manual_dir=IMAGES                    any tree in UnED's layout
  universal-embedding prepare --dataset=uned --verify                re-reads prepared records

Domains that are already prepared stay as they are, and so do the finished shards of one that was
interrupted. Every path may be on gs://. In several processes (on a cluster, with a runner of it):
--beam_pipeline_options=runner=DirectRunner,direct_num_workers=2,direct_running_mode=multi_processing
"""

import argparse
import os

from etils import epath

from universal_embedding.commands.arguments import (
    add_data_flags,
    add_switch,
    float_between,
    int_at_least,
)
from universal_embedding.errors import UserError
from universal_embedding.files import as_path, is_remote, reporting_storage_errors

# Flags that only some datasets take, None unless given; see datasets.prepare.BUILDER_OPTIONS.
BUILDER_FLAGS = (
    ("allow_partial", None, "uned, guie: accept other than the published counts."),
    ("max_per_class", int_at_least(1), "guie: maximum number of images per class."),
    ("landmark_classes", int_at_least(1), "guie: keep this many of the largest landmark classes."),
    ("disjoint_classes", None, "guie: give val classes of its own."),
    ("csv", str, "folder: CSV file of path,label[,split]."),
    ("val_fraction", float_between(0.0, 0.9), "guie, folder: fraction held out for val."),
    ("test_fraction", float_between(0.0, 0.9), "folder: fraction of the classes used for test."),
    ("index_fraction", float_between(0.0, 0.9), "folder: fraction of test images in an index."),
    ("seed", int_at_least(0), "guie, folder: random seed."),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `prepare`."""
    parser.add_argument(
        "--manual_dir", help="Directory of the images; without it, nothing is made."
    )
    add_data_flags(parser)
    parser.add_argument(
        "--max_side",
        type=int_at_least(1),
        help="Make images with a longer side this large, as JPEG of quality 95.",
    )
    add_switch(parser, "skip_corrupt", "Skip and report images that cannot be decoded.")
    add_switch(parser, "verify", "Re-read the records: counts, labels, decodability.")
    parser.add_argument("--montage", help="Write a montage of sample images to this PNG.")
    parser.add_argument(
        "--beam_pipeline_options", help="Prepare with Apache Beam; its options, comma-separated."
    )
    for name, kind, text in BUILDER_FLAGS:
        if kind is None:
            parser.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, help=text)
        else:
            parser.add_argument(f"--{name}", type=kind, help=text)


def run(args: argparse.Namespace) -> None:
    """Prepares what is missing, then summarizes, verifies or draws what is there."""
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")  # preparing needs no GPU
    if not args.manual_dir and not (args.dataset and (args.verify or args.montage)):
        raise UserError(
            "give --manual_dir to prepare a dataset, or --dataset with --verify or --montage to "
            "inspect a prepared one"
        )
    manual_dir = _open_manual_dir(args.manual_dir) if args.manual_dir else None

    from universal_embedding.datasets import contact_sheet, prepare, records

    data_dir = as_path(args.data_dir or records.default_data_dir())
    if manual_dir:
        dataset, keys = _prepare(args, manual_dir, data_dir)
    else:
        dataset = args.dataset
        keys = args.domains or records.list_prepared_domains(data_dir, dataset)
    print(prepare.format_table(prepare.summarize(data_dir, dataset, keys)))
    if args.verify:
        for key in keys:
            folder = records.dataset_dir(data_dir, dataset, key)
            count = prepare.verify_records(folder, key, show_progress=True)
            print(f"{dataset}/{key}: {count:,} images verified")
    if args.montage:
        sheet = contact_sheet.contact_sheet(data_dir, dataset, keys)
        contact_sheet.save_montage(sheet, args.montage)
        print(f"wrote {args.montage}")


def _open_manual_dir(argument: str) -> epath.Path:
    path = as_path(argument)
    path = path if is_remote(path) else path.resolve()  # a domain may be named after the folder
    with reporting_storage_errors(path):
        if not path.exists() or not path.is_dir():  # `is_dir` alone hides that a bucket is away
            raise UserError(f"--manual_dir={argument} is not a directory; put the images there")
    return path


def _prepare(
    args: argparse.Namespace, manual_dir: epath.Path, data_dir: epath.Path
) -> tuple[str, list[str]]:
    """Prepares the domains that are missing; returns the dataset and its domains."""
    from universal_embedding.datasets import prepare

    dataset = args.dataset or manual_dir.name
    keys = prepare.list_domains(dataset, manual_dir, args.domains)
    options = {name: getattr(args, name) for name, _, _ in BUILDER_FLAGS}
    options = {name: value for name, value in options.items() if value is not None}
    builders = [
        prepare.make_builder(
            dataset,
            key,
            options,
            data_dir=data_dir,
            max_side=args.max_side,
            skip_corrupt=args.skip_corrupt,
            show_progress=True,
        )
        for key in keys
    ]
    for builder in builders:
        done = prepare.prepare(builder, manual_dir, args.beam_pipeline_options)
        print(f"{dataset}/{builder.domain}: {done or 'already prepared'}")
    return dataset, keys
