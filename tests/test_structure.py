"""The shape of the project: what imports what, and that BUILD is in step with the tree."""

import ast
import fnmatch
import functools
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "universal_embedding"
ORDER = ("datasets", "input", "models", "training", "retrieval", "export", "gallery")


def imports_of(path):
    """The modules of the package that a file imports, at the top or within a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def folder_of(module):
    parts = module.split(".")
    return parts[1] if parts[0] == "universal_embedding" and parts[1:2] else None


@pytest.mark.parametrize("folder", ORDER)
def test_a_folder_imports_only_from_those_before_it(folder):
    files = sorted((PACKAGE / folder).rglob("*.py"))
    assert files
    later = ORDER[ORDER.index(folder) + 1 :]
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in files
        for module in imports_of(path)
        if folder_of(module) in later
    ]
    assert not wrong


def test_every_folder_of_the_package_has_its_place():
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders == set(ORDER)


@functools.cache
def files():
    """Every file below the checkout but for hidden folders and what the tools make."""
    found = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [f for f in folders if not f.startswith(".") and f not in ("demo", "runs")]
        found += [str((Path(folder) / name).relative_to(ROOT)) for name in names]
    return found


@functools.cache
def targets():
    """BUILD's targets, by running it: Starlark is Python, and `glob` is the only thing it reads."""
    found = []

    def rule(kind):
        return lambda **fields: found.append((kind, fields))

    def glob(include, exclude=()):
        def matches(file, patterns):
            # `**/` stands for any number of folders, none among them; `*` stays in its folder.
            return any(
                (fnmatch.fnmatch(file, p) and (p.count("/") == file.count("/") or "**" in p))
                or fnmatch.fnmatch(file, p.replace("**/", ""))
                for p in patterns
            )

        return sorted(f for f in files() if matches(f, include) and not matches(f, exclude))

    names = {
        "package": rule("package"),
        "licenses": lambda _: None,
        "exports_files": lambda _: None,
        "py_library": rule("py_library"),
        "py_binary": rule("py_binary"),
        "py_test": rule("py_test"),
        "glob": glob,
    }
    exec(compile((ROOT / "BUILD").read_text(), "BUILD", "exec"), names)
    return found


def test_build_has_a_target_for_every_file():
    of_kind = {"py_library": set(), "py_binary": set(), "py_test": set()}
    found = targets()
    for kind, fields in found:
        if kind in of_kind:
            of_kind[kind].update(fields["srcs"])
    tree = {str(p.relative_to(ROOT)) for p in ROOT.glob("tools/*.py")}
    assert of_kind["py_binary"] == tree
    tests = {str(p.relative_to(ROOT)) for p in ROOT.glob("tests/**/*.py")}
    assert of_kind["py_test"] == {t for t in tests if Path(t).name.startswith("test_")}
    package = {str(p.relative_to(ROOT)) for p in PACKAGE.rglob("*.py")}
    configs = {str(p.relative_to(ROOT)) for p in ROOT.glob("configs/*.py")}
    assert of_kind["py_library"] >= package | configs | (tests - of_kind["py_test"])
    names = [fields["name"] for kind, fields in found if kind != "package"]
    assert len(names) == len(set(names))


def test_build_lists_the_folders_in_their_order():
    libraries = {f["name"]: f.get("deps", []) for kind, f in targets() if kind == "py_library"}
    for number, folder in enumerate(ORDER):
        expected = [":universal_embedding", *(f":{before}" for before in ORDER[:number])]
        assert libraries[folder] == expected


@pytest.mark.slow
def test_bazel_accepts_the_build_file(tmp_path):
    bazel = shutil.which("bazel") or shutil.which("bazel-bootstrap")
    if bazel is None:
        pytest.skip("there is no bazel here (Debian: bazel-bootstrap)")
    done = subprocess.run(
        [bazel, f"--output_user_root={tmp_path}", "query", "//..."],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    queried = {line.removeprefix("//:") for line in done.stdout.split()}
    assert {f["name"] for kind, f in targets() if kind != "package"} <= queried


def test_nothing_that_is_committed_names_this_machine():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    here = [f"{ROOT}/", f"{Path.home()}/"]
    for name in listed.stdout.split("\0"):
        path = ROOT / name
        if name and path.is_file() and path.suffix in (".py", ".md", ".ipynb", ".txt", ".toml", ""):
            text = path.read_text(errors="ignore")
            assert not any(place in text for place in here), name


def test_test_files_have_names_of_their_own():
    """Pytest imports them by their bare names."""
    names = [path.name for path in ROOT.glob("tests/**/test_*.py")]
    assert len(names) == len(set(names))
