"""Writes the figures of README.md, docs/ and benchmarks/results/ from the records of benchmarks.

    python benchmarks/tables.py

A record is the JSON object that a benchmark prints as its last line, kept as results/NAME.json.
In a Markdown file everything between the lines `<!-- figures: NAME -->` and `<!-- end -->` is made
by `FIGURES[NAME]`; the text around it is written by hand and states no figure of a record.
"""

import json
import re
from pathlib import Path

import figures
import leaderboard
import search_figures
import uned_figures

from universal_embedding.errors import UserError
from universal_embedding.files import atomic_write

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks/results"
REGION = re.compile(r"(<!-- figures: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
FIGURES = {
    **figures.FIGURES,
    **leaderboard.FIGURES,
    **search_figures.FIGURES,
    **uned_figures.FIGURES,
}


def read_records(folder=RESULTS):
    """Records by name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def fill(text, records, origin):
    """Markdown with every region made anew.

    Raises:
        UserError: A region has no function, or a line that starts one has no end.
    """

    def make(match):
        start, name, end = match.groups()
        if name not in FIGURES:
            raise UserError(f"{origin} has figures {name!r}; there are {', '.join(FIGURES)}")
        return f"{start}{FIGURES[name](records)}\n{end}"

    filled, count = REGION.subn(make, text)
    if count != text.count("<!-- figures: "):
        raise UserError(f"{origin} has figures without a line <!-- end -->")
    return filled


def markdown_files(root=ROOT):
    """The files that may have figures."""
    folders = (root, root / "docs", root / "benchmarks/results")
    return [path for folder in folders for path in sorted(folder.glob("*.md"))]


def write_all(root=ROOT):
    """Makes the figures of every file anew; returns the files that changed."""
    records, changed = read_records(root / "benchmarks/results"), []
    for path in markdown_files(root):
        text = path.read_text()
        filled = fill(text, records, path)
        if filled != text:
            with atomic_write(path) as file:
                file.write(filled)
            changed.append(path)
    return changed


if __name__ == "__main__":
    for changed_path in write_all():
        print(f"written: {changed_path.relative_to(ROOT)}")
