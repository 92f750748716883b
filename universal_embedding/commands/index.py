"""Embed a folder of images into a searchable index; a second call embeds what is new or changed.

  universal-embedding index --model=submission.zip --images=PHOTOS --output=photos.index
  universal-embedding index --embeddings=EMBEDDINGS --output=vectors.index

The second makes an index of what `embed` wrote, or of the vectors of any other program (.npy with
or without .parquet, .npz), in shards of about ten million rows; an interrupted call resumes.
"""

import argparse

from universal_embedding.commands.arguments import add_local_path, float_between, int_at_least
from universal_embedding.errors import UserError, printable

MODEL_FLAGS = ("batch_size",)
VECTOR_FLAGS = ("rows_per_shard", "dtype", "search", "target_recall", "build_gflop")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `index`."""
    add = parser.add_argument
    add("--model", help="A run directory, SavedModel, submission zip, .keras file or preset.")
    dimension_help = "--model: keep only the first dimensions of its embeddings; all by default."
    add("--dimension", type=int_at_least(1), help=dimension_help)
    images_help = "Folder of images; its sub-folders are the categories."
    add_local_path(parser, "--images", images_help)
    add("--embeddings", help="Directory or file of embeddings to index, in place of --model.")
    add_local_path(parser, "--output", "Index directory to write or update.", required=True)
    add("--batch_size", type=int_at_least(1), help="--model: images per batch, 32 by default.")
    shard_help = "--embeddings: rows in a shard; 10,000,000 of 64 numbers by default."
    add("--rows_per_shard", type=int_at_least(1), help=shard_help)
    add(
        "--dtype",
        choices=["int8", "bfloat16", "float16", "float32"],
        help="--embeddings: format of the rows, int8 by default.",
    )
    add(
        "--search",
        choices=["exact", "approximate"],
        help="--embeddings: neighbor search; by default exact below 500,000 rows.",
    )
    recall_help = "--embeddings: recall@5 to tune approximate search for, 0.99 by default."
    add("--target_recall", type=float_between(0.0, 1.0), help=recall_help)
    cost_help = "--embeddings: largest cost of building a shard in GFLOP; more makes search faster."
    add("--build_gflop", type=float_between(0.0), help=cost_help)


def run(args: argparse.Namespace) -> None:
    """Builds or updates an index."""
    if args.embeddings and args.model:
        raise UserError("give --embeddings or --model; `query --model=...` searches by image")
    source, others = ("embeddings", MODEL_FLAGS) if args.embeddings else ("model", VECTOR_FLAGS)
    unused = [name for name in others if getattr(args, name) is not None]
    if args.embeddings and args.dimension:
        raise UserError("--dimension goes with --model; give it to `embed` instead")
    if unused:
        raise UserError(f"--{unused[0]} has no effect on --{source}: leave it out")
    if args.embeddings:
        _index_embeddings(args)
    elif not args.model or not args.images:
        raise UserError("give --model and --images, or --embeddings")
    else:
        _index_images(args)


def _index_images(args: argparse.Namespace) -> None:
    from universal_embedding.app.index_update import update_index
    from universal_embedding.export.embedder import Embedder

    model = Embedder.from_pretrained(args.model, dimension=args.dimension)
    index, update = update_index(args.output, args.images, model, args.batch_size or 32)
    for name, reason in index.corrupt.items():
        print(f"unreadable: {printable(name)}: {printable(reason)}")
    print(
        f"{args.output}: {len(index)} images in {len(set(index.categories))} categories; "
        f"{update.added} new, {update.changed} changed, {update.removed} removed, "
        f"{update.unchanged} unchanged, {len(index.corrupt)} unreadable, "
        f"{update.other_files} non-image files skipped"
    )


def _index_embeddings(args: argparse.Namespace) -> None:
    from universal_embedding.app.vector_index_build import VectorIndexConfig, build_vector_index

    settings = {name: getattr(args, name) for name in VECTOR_FLAGS}
    config = VectorIndexConfig(**{k: v for k, v in settings.items() if v is not None})
    summary = build_vector_index(args.embeddings, args.output, config, args.images)
    print(
        f"{args.output}: {summary.num_rows} rows in {summary.num_shards} shards, "
        f"{summary.num_built} built now; {summary.num_empty} rows without an embedding"
    )
