"""Renders the demo's images: eight domains in UnED's layout, or 100 images in 5 categories.

python examples/render.py --kind=domains|gallery --output=DIR
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout

from examples.demo_data import render_domains, render_gallery
from universal_embedding.errors import UserError


def main() -> None:
    """Renders one kind of images and prints how many."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="Directory to make.")
    parser.add_argument("--kind", choices=("domains", "gallery"), default="domains")
    parser.add_argument("--seed", type=int, default=0, help="Seed of all classes and images.")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    render = {"domains": render_domains, "gallery": render_gallery}[args.kind]
    try:
        count = render(args.output, args.seed, args.processes)
    except (UserError, KeyboardInterrupt) as error:
        sys.exit(f"error: {str(error) or 'interrupted'}")
    print(f"{args.output}: {f'{count} images rendered' if count else 'already rendered'}")


if __name__ == "__main__":
    main()
