"""Search an index with an image, with one of its rows or with a vector.

universal-embedding query --index=photos.index --image=query.jpg [--k=5] [--montage=matches.png]
universal-embedding query --index=vectors.index --row=SHARD/ROW
universal-embedding query --index=vectors.index --vector=query.npy

Several --image, --row and --vector are one query: like all of them, or with --combine=best like any
of them; and not like the images of --unlike.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from universal_embedding.commands.arguments import (
    add_index_flags,
    add_local_path,
    add_switch,
    float_between,
    int_at_least,
)

if TYPE_CHECKING:
    import numpy as np


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `query`."""
    add_index_flags(parser)
    add = parser.add_argument
    add_local_path(parser, "--image", "Image to search with.", repeated=True)
    row_help = "Position of a row to search with, or SHARD/ROW in an index of embeddings."
    add("--row", action="append", default=[], help=row_help)
    vector_help = "Embedding to search with: a .npy of shape [D]."
    add_local_path(parser, "--vector", vector_help, repeated=True)
    unlike_help = "Image that matches should not be like."
    add_local_path(parser, "--unlike", unlike_help, repeated=True)
    combine_help = "Distance from the mean of several queries, or from the nearest of them."
    add("--combine", default="mean", choices=["mean", "best"], help=combine_help)
    add("--k", type=int_at_least(1), default=5, help="Number of matches.")
    metric_help = "Distance metric."
    add("--metric", default="euclidean", choices=["euclidean", "cosine"], help=metric_help)
    add("--category", help="Search only this category.")
    add_switch(parser, "all", "List the whole index by distance.")
    add("--max_distance", type=float_between(0.0), help="Leave out matches farther than this.")
    add("--montage", help="Write the query and its matches to this PNG.")


def run(args: argparse.Namespace) -> None:
    """Prints the matches, nearest first."""
    from universal_embedding.app.combined_search import search_combined
    from universal_embedding.app.searchable import open_index
    from universal_embedding.errors import UserError, printable

    if not (args.image or args.row or args.vector):
        raise UserError("give --image, --row or --vector")
    if args.montage and not args.image:
        raise UserError("--montage shows an image and its matches: give --image")
    for flag, paths in (("image", args.image), ("unlike", args.unlike)):
        for path in paths:
            _check_image(flag, path)  # a wrong file fails before the model is loaded
    index = open_index(args.index, args.model, args.exact_search_below)
    if not index.is_exact:
        print(index.describe_approximation())
    like = [*args.image, *map(index.position, args.row), *map(_read_vector, args.vector)]
    hits = search_combined(
        index,
        like,
        args.unlike,
        k=len(index) if args.all else args.k,
        combine=args.combine,
        metric=args.metric,
        category=args.category,
        max_distance=args.max_distance,
    )
    if not hits:
        print("no image within --max_distance" if args.max_distance else "no image has a distance")
    for hit in hits:
        print(f"{hit.distance:.4f}  {printable(hit.name)}")
    if args.montage:
        from universal_embedding.app import hit_montage
        from universal_embedding.datasets.contact_sheet import save_montage

        image = hit_montage.query_montage(index, args.image[0], hits[:100])
        save_montage(image, args.montage)
        print(f"wrote {args.montage}")


def _check_image(flag: str, path: Path) -> None:
    from universal_embedding.datasets.image_files import read_image
    from universal_embedding.errors import UserError

    try:
        read_image(path)
    except UserError as error:
        raise UserError(f"--{flag}={path}: {error}") from None


def _read_vector(path: Path) -> "np.ndarray":
    import numpy as np

    from universal_embedding.errors import UserError
    from universal_embedding.files import reporting_unreadable

    try:
        with reporting_unreadable(path, "give a .npy of shape [D]"):
            vector = np.load(path, allow_pickle=False).astype(np.float32)
    except FileNotFoundError:
        raise UserError(f"--vector={path} does not exist; give a .npy of shape [D]") from None
    if vector.ndim != 1:
        raise UserError(f"--vector={path} has shape {vector.shape}; give a .npy of shape [D]")
    return vector
