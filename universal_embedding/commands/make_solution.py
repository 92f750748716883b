"""Make a competition of your own: query and index images, and the solution file of `score`.

universal-embedding make-solution --output=DIR --folder=IMAGES     IMAGES/<class>/<image>
universal-embedding make-solution --output=DIR --dataset=uned      a prepared dataset
"""

import argparse

from universal_embedding.commands.arguments import add_data_flags, add_local_path, float_between
from universal_embedding.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `make-solution`."""
    add = parser.add_argument
    add_local_path(parser, "--output", "Folder to make.", required=True)
    add_local_path(parser, "--folder", "Folder with one sub-folder of images per class.")
    add_data_flags(parser)
    add("--split", default="test", choices=["val", "test"], help="Split of the prepared dataset.")
    add(
        "--query_fraction",
        type=float_between(0.0, 1.0),
        default=0.2,
        help="Fraction of each class used as queries; the rest form the index.",
    )
    add(
        "--public_fraction",
        type=float_between(0.0, 1.0),
        default=1 / 3,
        help="Fraction of queries on the public leaderboard.",
    )


def run(args: argparse.Namespace) -> None:
    """Writes query/, index/ and solution.csv."""
    if bool(args.folder) == bool(args.dataset):
        raise UserError("give either --folder=DIR (labeled folders) or --dataset=NAME (prepared)")
    from universal_embedding.datasets.records import default_data_dir
    from universal_embedding.kaggle import make_solution

    if args.folder:
        images = make_solution.from_folder(args.folder)
        queries, index = make_solution.split_queries_and_index(images, args.query_fraction)
    else:
        queries, index = make_solution.from_records(
            args.data_dir or default_data_dir(),
            args.dataset,
            args.split,
            args.domains,
            args.query_fraction,
        )
    solution = make_solution.write_competition(args.output, queries, index, args.public_fraction)
    public = sum(usage == "Public" for usage in solution.usage.values())
    print(
        f"{args.output}: {len(solution.images)} queries ({public} public), "
        f"{len(index)} index images, solution.csv"
    )
