"""The wheel and the sdist: what they hold, and that both work without a checkout."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NEEDED = (
    "universal_embedding/py.typed",
    "universal_embedding/configs/uned.py",
    "universal_embedding/app/page/app.js",
    "universal_embedding/reporting/templates/report.html.j2",
    "universal_embedding/training/losses/udon.py",
)
CODE = """
import json, pathlib, sys
import universal_embedding as ue
from universal_embedding import cli
from universal_embedding.commands.config_flag import read_config_flag, recipe_names
assert not pathlib.Path(ue.__file__).is_relative_to(sys.argv[1]), ue.__file__
configs = {name: read_config_flag(name) for name in recipe_names() if name != "continued"}
assert len(configs) >= 7 and configs["uned"].data.dataset == "uned"
print(ue.evaluate([[1, 0], [0.8, 0.6], [0, 1]], None, ["cat", "cat", "dog"])["r_at_1"])
"""


PIP = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "-t")


def run(*command, **options):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(wheel, sdist), built from the tracked files as `make dist` does."""
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT)
    [wheel], [sdist] = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


def assert_works(site, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(site)}
    out = run(sys.executable, "-c", CODE, ROOT, cwd=tmp_path, env=environment)
    assert out.strip().endswith("1.0")


@pytest.mark.slow
def test_wheel_holds_the_package_and_nothing_else_and_works(built, tmp_path):
    names = zipfile.ZipFile(built[0]).namelist()
    assert set(NEEDED) <= set(names)
    tops = {name.split("/")[0] for name in names}
    assert {name for name in tops if not name.endswith(".dist-info")} == {"universal_embedding"}
    run(*PIP, tmp_path / "w", built[0])
    assert_works(tmp_path / "w", tmp_path)


@pytest.mark.slow
def test_sdist_builds_a_package_that_works(built, tmp_path):
    with tarfile.open(built[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "configs/uned.py", *NEEDED[2:]} <= names
    run(*PIP, tmp_path / "s", built[1])
    assert_works(tmp_path / "s", tmp_path)
