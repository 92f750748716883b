"""Search an index with an image.

universal-embedding query --index=photos.index --image=query.jpg [--k=5] [--montage=matches.png]
"""

import argparse

from universal_embedding.commands.arguments import (
    add_index_flags,
    add_local_path,
    add_switch,
    float_between,
    int_at_least,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `query`."""
    add_index_flags(parser)
    add = parser.add_argument
    add_local_path(parser, "--image", "Image to search with.", required=True)
    add("--k", type=int_at_least(1), default=5, help="Number of matches.")
    metric_help = "Distance metric."
    add("--metric", default="euclidean", choices=["euclidean", "cosine"], help=metric_help)
    add("--category", help="Search only this category.")
    add_switch(parser, "all", "List the whole index by distance.")
    add("--max_distance", type=float_between(0.0), help="Leave out matches farther than this.")
    add("--montage", help="Write the query and its matches to this PNG.")


def run(args: argparse.Namespace) -> None:
    """Prints the matches, nearest first."""
    from universal_embedding.app import hit_montage
    from universal_embedding.app.image_index import ImageIndex
    from universal_embedding.datasets.contact_sheet import save_montage
    from universal_embedding.datasets.image_files import read_image
    from universal_embedding.errors import UserError, printable

    try:
        read_image(args.image)  # a wrong file fails before the model is loaded
    except UserError as error:
        raise UserError(f"--image={args.image}: {error}") from None
    index = ImageIndex.load(args.index, args.model, args.exact_search_below)
    if not index.is_exact:
        print(index.describe_approximation())
    hits = index.search(
        args.image,
        k=len(index) if args.all else args.k,
        metric=args.metric,
        category=args.category,
        max_distance=args.max_distance,
    )
    if not hits:
        print("no image within --max_distance" if args.max_distance else "no image has a distance")
    for hit in hits:
        print(f"{hit.distance:.4f}  {printable(hit.name)}")
    if args.montage:
        image = hit_montage.query_montage(index, args.image, hits[:100])
        save_montage(image, args.montage)
        print(f"wrote {args.montage}")
