"""One vocabulary: the words that the project's text and code do not use."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SUFFIXES = (".py", ".md", ".html", ".j2", ".js", ".css", ".txt", ".toml", ".ipynb")
WORD = re.compile(
    r"picture|neighbour|colour"
    r"|(?<![a-z])(?:normalis(?:e|ing|ation)|summaris(?:e|ing)|grey|licence|catalogue|centre|sidecar)",
    re.IGNORECASE,
)


def tracked_files():
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listed.stdout.split("\0") if name.endswith(SUFFIXES)]
    return [p for p in paths if p.is_file() and p != Path(__file__).resolve()]


def test_no_word_outside_the_vocabulary():
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for path in tracked_files()
        for number, line in enumerate(path.read_text(errors="ignore").splitlines(), 1)
        if WORD.search(line)
    ]
    assert not found, "\n".join(found[:40])


def test_no_docstring_opens_with_what():
    opening = re.compile(r'^\s*r?"""(?:What|How|Whom|Which|Where|Of)\b')
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked_files()
        if path.suffix == ".py"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if opening.match(line)
    ]
    assert not found


@pytest.mark.parametrize(
    ("word", "is_found"),
    [("DrawPicture", True), ("nearest_neighbours", True), ("neighbor", False), ("colors", False)],
)
def test_the_search_for_words_finds_them(word, is_found):
    assert bool(WORD.search(f"x = {word}")) is is_found
