"""The `config.json` of a run: what it trains, on what, with which versions."""

import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from ml_collections import ConfigDict

from universal_embedding import __version__
from universal_embedding.errors import UserError

LIBRARIES = ("tensorflow", "keras", "keras-hub", "tensorflow-datasets", "array-record", "numpy")


def write_run(workdir: Path, config: ConfigDict, facts: Mapping[str, object]) -> None:
    """Writes `config.json`, or checks that the run that is there has the same config.

    Args:
        workdir: The run's folder; made if missing.
        config: Of the run.
        facts: What else is to be known of it: data folder, classes, sampler weights.

    Raises:
        UserError: the folder holds a run with another config; the message names the differences.
    """
    path = workdir / "config.json"
    # Through JSON, so that tuples compare equal to the lists that were read.
    own = json.loads(config.to_json())
    if path.exists():
        before = dict(_leaves(read_run(workdir)["config"]))
        now = dict(_leaves(own))
        changed = sorted(k for k in before | now if before.get(k) != now.get(k))
        if changed:
            shown = ", ".join(f"{k}: {before.get(k)} -> {now.get(k)}" for k in changed[:5])
            raise UserError(
                f"{workdir} holds a run with another config ({shown}); give it the same one to go "
                "on with it, or another --workdir"
            )
        return
    workdir.mkdir(parents=True, exist_ok=True)
    run = {"config": own, **facts, "versions": _versions(), "git_commit": _git_commit()}
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(run, indent=2) + "\n")
    partial.replace(path)


def read_run(workdir: Path) -> dict:
    """The content of `config.json`; under `config` the run's config as plain JSON.

    Raises:
        UserError: there is no run in the folder, or its file is damaged.
    """
    path = workdir / "config.json"
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(
            f"{workdir} holds no run: there is no {path}; give the --workdir of tools/train.py"
        ) from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is damaged ({error}); restore it or train again") from error


def _leaves(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}" if name else key)
    elif isinstance(value, list) and any(isinstance(inner, dict) for inner in value):
        for number, inner in enumerate(value):
            yield from _leaves(inner, f"{name}[{number}]")
    else:
        yield name, value


def _versions() -> dict[str, str]:
    versions = {"universal_embedding": __version__, "python": platform.python_version()}
    for library in LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:  # `tensorflow-tpu` has its own name
            versions[library] = "not installed"
    return versions


def _git_commit() -> str | None:
    """The commit of the checkout that runs, marked if it was changed; None outside a checkout."""
    folder = Path(__file__).resolve().parent
    try:
        described = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()
