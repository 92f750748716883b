"""Find groups of equal and nearly equal images in an index; nothing is deleted.

  universal-embedding duplicates --index=photos.index [--report=pairs.json] [--page=pairs.html]

Thresholds are calibrated on edited copies (resized, recompressed, cropped, brightened) of the
images of the index; --threshold sets the one of the embeddings.
"""

import argparse
import json
from collections.abc import Sequence

from universal_embedding.commands.arguments import add_index_flags, add_switch, float_between
from universal_embedding.errors import UserError, printable

MAX_LISTED = 50


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `duplicates`."""
    add_index_flags(parser)
    add = parser.add_argument
    threshold_help = "Least cosine similarity of the embeddings; calibrated by default."
    add("--threshold", type=float_between(-1.0, 1.0), help=threshold_help)
    add_switch(parser, "compare_pixels", "Compare small gray versions too.", default=True)
    add("--report", help="Write all groups to this JSON file.")
    add("--page", help="Write a page that shows the groups side by side.")


def run(args: argparse.Namespace) -> None:
    """Prints the groups, largest first."""
    from universal_embedding.app import duplicates
    from universal_embedding.app.image_index import ImageIndex
    from universal_embedding.app.searchable import open_index
    from universal_embedding.files import atomic_write, check_writable
    from universal_embedding.reporting.duplicates_page import write_duplicates_page

    for name in ("report", "page"):
        if getattr(args, name):
            check_writable(getattr(args, name), f"--{name}")
    index = open_index(args.index, args.model, args.exact_search_below)
    if not isinstance(index, ImageIndex):
        raise UserError(
            f"--index={args.index} holds embeddings without images; give an index of images"
        )
    thresholds, groups = duplicates.find_duplicates(index, args.threshold, args.compare_pixels)
    report = duplicates.make_report(index, thresholds, groups)
    print("\n".join(_lines(report)))
    if args.report:
        with atomic_write(args.report) as file:
            json.dump(report, file, indent=1, ensure_ascii=False)
        print(f"wrote {args.report}")
    if args.page:
        paths = [duplicates.image_paths(index, group) for group in groups]
        write_duplicates_page(report, paths, args.page)
        print(f"wrote {args.page}")


def _lines(report: dict) -> Sequence[str]:
    thresholds, groups = report["thresholds"], report["groups"]
    pixels = thresholds["pixels"]
    lines = [
        f"{len(groups):,} groups in {report['num_images']:,} images, {report['num_duplicates']:,} "
        "beyond the first of each",
        f"least similarity {thresholds['embedding']:.4f}"
        + (f", of gray versions {pixels:.4f}" if pixels is not None else ""),
    ]
    recall = thresholds["recall_of_edited_copies"]
    if recall:
        found = ", ".join(f"{edit} {share:.0%}" for edit, share in recall.items())
        lines.append(f"found of edited copies: {found}")
    for group in groups[:MAX_LISTED]:
        kind = "equal" if group["equal"] else f"similarity {group['similarity']:.4f}"
        lines += ["", f"{len(group['names'])} images, {kind}"]
        lines += [f"  {printable(name)}" for name in group["names"]]
    if len(groups) > MAX_LISTED:
        lines += ["", f"and {len(groups) - MAX_LISTED:,} more groups: --report, --page"]
    return lines
