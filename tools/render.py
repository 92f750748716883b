"""Renders the pictures that the project ships: the demo's eight domains, or the small gallery.

    python tools/render.py --output=DIR                  # info_files/ and images/, as UnED has them
    python tools/render.py --output=DIR --what=gallery   # 100 pictures in 5 categories

The same seed gives the same pictures, byte for byte, on any number of processes.
"""

import os
from pathlib import Path

from absl import flags

from universal_embedding import command

_OUTPUT = flags.DEFINE_string("output", None, "Folder to make.", required=True)
_WHAT = flags.DEFINE_enum("what", "domains", ["domains", "gallery"], "What to render.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of all classes and pictures.", lower_bound=0)
_PROCESSES = flags.DEFINE_integer(
    "processes", os.cpu_count() or 1, "How many draw at once.", lower_bound=1
)


def main(argv: list[str]) -> None:
    """Renders, and says how much."""
    del argv
    from universal_embedding.datasets.rendered import tree

    render = {"domains": tree.render_domains, "gallery": tree.render_gallery}[_WHAT.value]
    output = Path(_OUTPUT.value)
    count = render(output, seed=_SEED.value, processes=_PROCESSES.value)
    print(f"{output}: {f'{count} pictures rendered' if count else 'already rendered'}")


if __name__ == "__main__":
    command.run(main)
