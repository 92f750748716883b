"""Every shell and Python block of README and docs/ runs, or says above it why not."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.layouts import write_image, write_uned_layout
from tests.helpers.tiny_run import CONFIG

ROOT = Path(__file__).resolve().parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>.+?) -->\n)?```(?P<kind>\w*)\n(?P<code>.*?)\n```", re.S
)
RUN = ("sh", "python")


def blocks(page):
    """(kind, code, reason for not running it or None) of each block of a page."""
    matches = BLOCK.finditer(page.read_text())
    return [(match["kind"], match["code"], match["reason"]) for match in matches]


def pages_that_run():
    return [p for p in PAGES if any(k in RUN and r is None for k, _, r in blocks(p))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_has_a_language(page):
    kinds = {kind for kind, _, _ in blocks(page)}
    assert kinds <= {*RUN, "text", "json", "toml"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A directory with what the pages start from: images and one trained run."""
    folder = tmp_path_factory.mktemp("docs")
    for domain in ("birds", "toys"):
        counts = {"train": (24, 0), "val": (12, 10), "test": (8, 20)}
        images = {
            split: [(f"{domain}/{split}/{i}.jpg", base + i % 4) for i in range(count)]
            for split, (count, base) in counts.items()
        }
        write_uned_layout(folder / "images/tiny", domain, images)
    for i in range(60):
        write_image(folder / f"images/folders/class{i % 12}/{i}.jpg", i)
    program = folder / "bin" / "universal-embedding"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m universal_embedding "$@"\n')
    program.chmod(0o755)
    config = CONFIG.format(backbone="small", steps=6).replace("image_size = 16", "image_size = 32")
    (folder / "config.py").write_text(config)
    run_shell(
        "universal-embedding prepare --manual_dir=images/tiny --data_dir=data\n"
        "universal-embedding train --config=config.py --data_dir=data --workdir=runs/tiny",
        folder,
    )
    return folder


def run_shell(code, folder):
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    run(["bash", "-euo", "pipefail", "-c", code], folder, PATH=path)


def run(command, folder, **environment):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}"


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_that_run(), ids=lambda page: page.name)
def test_blocks_of_a_page_run(page, folder):
    for kind, code, reason in blocks(page):
        if kind not in RUN or reason is not None:
            continue
        if kind == "sh":
            run_shell(code, folder)
        else:
            run([sys.executable, "-c", code], folder)


@pytest.mark.slow
def test_blocks_that_can_run_are_many():
    all_blocks = [(k, r) for page in PAGES for k, _, r in blocks(page) if k in RUN]
    num_run = sum(reason is None for _, reason in all_blocks)
    print(f"{num_run} of {len(all_blocks)} blocks of README and docs run")
    assert num_run >= 15
