"""`config.json` of a run directory: the config, the data and the library versions of a run."""

import hashlib
import json
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from universal_embedding.errors import UserError
from universal_embedding.files import atomic_write, reporting_unreadable
from universal_embedding.versions import library_versions

CONFIG_FORMAT = 4
_LIBRARIES = ("tensorflow", "keras", "keras-hub", "tensorflow-datasets", "numpy")


def write_config(workdir: Path, config: ConfigDict, data_summary: Mapping[str, Any]) -> None:
    """Writes `config.json`, or checks that the run in the directory has the same config.

    Args:
        workdir: The run directory; created if missing.
        config: The config of the run.
        data_summary: Facts about the data to record beside it; see `Experiment.data_summary`.

    Raises:
        UserError: the directory holds a run with another config; the message lists the differences.
    """
    path = workdir / "config.json"
    # Through JSON, so that tuples compare equal to the lists that are read back.
    new_config = json.loads(config.to_json())
    if path.exists():
        before = dict(_leaves(read_config(workdir)["config"]))
        after = dict(_leaves(new_config))
        changed = sorted(key for key in before | after if before.get(key) != after.get(key))
        if changed:
            changes = ", ".join(f"{k}: {before.get(k)} -> {after.get(k)}" for k in changed[:5])
            raise UserError(
                f"{workdir} holds a run with another config ({changes}); pass the same config to "
                "resume it, or another --workdir"
            )
        return
    content = {
        "format": CONFIG_FORMAT,
        "config": new_config,
        **data_summary,
        "versions": library_versions(_LIBRARIES),
        "git_commit": _git_commit(),
    }
    save_config(workdir, content)


def save_config(workdir: Path, content: Mapping[str, Any]) -> None:
    """Writes `config.json` with the checksum of its content."""
    with atomic_write(workdir / "config.json") as file:
        file.write(json.dumps({**content, "sha256": _checksum(content)}, indent=2) + "\n")


def read_config(workdir: Path) -> dict[str, Any]:
    """Returns the content of `config.json`, with the run's config as plain JSON under `config`.

    Raises:
        UserError: the directory holds no run, the file is damaged, or another version wrote it.
    """
    path = workdir / "config.json"
    try:
        with reporting_unreadable(path, "restore it or train the run again"):
            content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(
            f"{workdir} is not a run directory: it has no config.json; give the --workdir of "
            "`universal-embedding train`"
        ) from error
    if not isinstance(content, dict) or content.get("format") != CONFIG_FORMAT:
        version = content.get("format", 1) if isinstance(content, dict) else "unknown"
        raise UserError(
            f"{path} has format {version}, and this version of universal_embedding reads format "
            f"{CONFIG_FORMAT}; train the run again, or use the version that trained it"
        )
    # A flipped bit may leave valid JSON. Runs of earlier versions have no checksum.
    if content.pop("sha256", None) not in (None, _checksum(content)):
        raise UserError(
            f"{path} was changed or damaged since it was written; restore it, or remove its sha256 "
            "if you edited it"
        )
    return content


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}" if name else key)
    elif isinstance(value, list) and any(isinstance(inner, dict) for inner in value):
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{name}[{index}]")
    else:
        yield name, value


def _git_commit() -> str | None:
    """The commit of the checkout in use, marked if it has changes; None outside a checkout."""
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
