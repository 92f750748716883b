"""The shape of the project: import order, file sizes, unique names, Bazel targets, packages."""

import ast
import collections
import fnmatch
import functools
import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "universal_embedding"
ORDER = (
    "datasets",
    "input",
    "models",
    "search",
    "training",
    "evaluation",
    "reporting",
    "export",
    "kaggle",
    "app",
    "commands",
)
MAX_LINES = 350


def imported_modules(path):
    """The modules that a file imports, at the top or within a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def room_of(module):
    parts = module.split(".")
    return parts[1] if parts[0] == "universal_embedding" and parts[1:2] else None


@pytest.mark.parametrize("room", ORDER)
def test_a_folder_imports_only_from_those_before_it(room):
    files = sorted((PACKAGE / room).rglob("*.py"))
    assert files
    later = ORDER[ORDER.index(room) + 1 :]
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in files
        for module in imported_modules(path)
        if room_of(module) in later
    ]
    assert not wrong


def test_search_depends_on_nothing_of_the_package_but_errors_and_files():
    modules = {m for p in (PACKAGE / "search").glob("*.py") for m in imported_modules(p)}
    rooms = {room_of(module) for module in modules} - {None}
    assert rooms <= {"search", "errors", "files"}


def test_every_folder_of_the_package_has_its_place():
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders == set(ORDER)


def test_no_file_of_the_package_is_too_long():
    lengths = {p: len(p.read_text().splitlines()) for p in PACKAGE.rglob("*.py")}
    assert not {str(p.relative_to(ROOT)): n for p, n in lengths.items() if n > MAX_LINES}


def test_files_and_classes_of_the_package_have_unique_names():
    files, classes = collections.Counter(), collections.Counter()
    for path in PACKAGE.rglob("*.py"):
        # A verb of the command line is named after what it calls.
        if path.name != "__init__.py" and path.parent.name != "commands":
            files[path.name] += 1
        tree = ast.parse(path.read_text())
        names = [n.name for n in ast.walk(tree) if isinstance(n, ast.ClassDef)]
        classes.update(name for name in names if not name.startswith("_"))
    assert not {name: n for counter in (files, classes) for name, n in counter.items() if n > 1}


def test_only_one_file_uses_private_apis_of_tensorflow_and_keras():
    marks = ("tensorflow.python", "tf.__internal__", "keras.src", "_flatten_layers", "keras._")
    found = [
        f"{path.relative_to(ROOT)}: {mark}"
        for path in PACKAGE.rglob("*.py")
        if path.name != "private_apis.py"
        for mark in marks
        if mark in path.read_text()
    ]
    assert not found


def test_packages_of_the_wheel_are_the_folders_of_the_tree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = project["tool"]["setuptools"]["packages"]
    folders = [p.parent.relative_to(ROOT) for p in PACKAGE.rglob("__init__.py")]
    expected = {".".join(folder.parts) for folder in folders} | {"universal_embedding.configs"}
    assert sorted(listed) == sorted(expected)


@functools.cache
def files():
    """Every file of the checkout but hidden folders and outputs of the tools."""
    found = []
    skipped = ("demo", "runs", "build", "dist", "reports")
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [f for f in folders if not f.startswith(".") and f not in skipped]
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
            # `**/` is any number of folders, also none; `*` stays in its folder.
            return any(
                (fnmatch.fnmatch(file, p) and (p.count("/") == file.count("/") or "**" in p))
                or fnmatch.fnmatch(file, p.replace("**/", ""))
                for p in patterns
            )

        return sorted(f for f in files() if matches(f, include) and not matches(f, exclude))

    names = {
        "load": lambda *_: None,
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
    sources = {"py_library": set(), "py_binary": set(), "py_test": set()}
    found = targets()
    for kind, fields in found:
        if kind in sources:
            sources[kind].update(fields["srcs"])

    def tree(pattern):
        return {str(p.relative_to(ROOT)) for p in ROOT.glob(pattern)}

    assert sources["py_binary"] == tree("tools/*.py")
    tests = tree("tests/**/*.py")
    assert sources["py_test"] == {t for t in tests if Path(t).name.startswith("test_")}
    libraries = (
        tree("universal_embedding/**/*.py") | tree("configs/*.py") | tree("examples/**/*.py")
    )
    assert sources["py_library"] >= libraries | (tests - sources["py_test"])
    names = [fields["name"] for kind, fields in found if kind != "package"]
    assert len(names) == len(set(names))


def test_build_lists_the_folders_in_their_order():
    libraries = {f["name"]: f.get("deps", []) for kind, f in targets() if kind == "py_library"}
    for number, room in enumerate(ORDER):
        expected = [":universal_embedding", *(f":{before}" for before in ORDER[:number])]
        assert libraries[room] == expected


@pytest.mark.slow
def test_bazel_accepts_the_build_file(tmp_path):
    bazel = shutil.which("bazel") or shutil.which("bazel-bootstrap")
    if bazel is None:
        pytest.skip("Bazel is not installed (Debian: bazel-bootstrap)")
    done = subprocess.run(
        [bazel, "--batch", f"--output_user_root={tmp_path}", "query", "//..."],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    queried = {line.removeprefix("//:") for line in done.stdout.split()}
    assert {f["name"] for kind, f in targets() if kind != "package"} <= queried


def test_no_committed_file_names_this_machine():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    local = [f"{ROOT}/", f"{Path.home()}/"]
    for name in listed.stdout.split("\0"):
        path = ROOT / name
        if name and path.is_file() and path.suffix in (".py", ".md", ".ipynb", ".txt", ".toml", ""):
            text = path.read_text(errors="ignore")
            assert not any(place in text for place in local), name
