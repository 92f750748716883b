"""Embed a folder of images into a searchable index; a second call embeds what is new or changed.

universal-embedding index --model=submission.zip --images=PHOTOS --output=photos.index
"""

import argparse

from universal_embedding.commands.arguments import add_local_path, int_at_least
from universal_embedding.errors import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `index`."""
    model_help = "A run directory, SavedModel, submission zip, .keras file or preset."
    parser.add_argument("--model", required=True, help=model_help)
    images_help = "Folder of images; its sub-folders are the categories."
    add_local_path(parser, "--images", images_help, required=True)
    add_local_path(parser, "--output", "Index directory to write or update.", required=True)
    parser.add_argument("--batch_size", type=int_at_least(1), default=32, help="Images per batch.")


def run(args: argparse.Namespace) -> None:
    """Builds or updates an index."""
    from universal_embedding.app.index_update import update_index
    from universal_embedding.export.embedder import Embedder

    model = Embedder.from_pretrained(args.model)
    index, update = update_index(args.output, args.images, model, batch_size=args.batch_size)
    for name, reason in index.corrupt.items():
        print(f"unreadable: {printable(name)}: {printable(reason)}")
    print(
        f"{args.output}: {len(index)} images in {len(set(index.categories))} categories; "
        f"{update.added} new, {update.changed} changed, {update.removed} removed, "
        f"{update.unchanged} unchanged, {len(index.corrupt)} unreadable, "
        f"{update.other_files} non-image files skipped"
    )
