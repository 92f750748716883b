"""The Python of Kaggle's scorer: TensorFlow 2.6.4 in `.venv-kaggle` beside the Makefile."""

import os
import shutil
import subprocess
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent.parent / ".venv-kaggle"
PACKAGES = (
    "tensorflow==2.6.4",
    "numpy<1.20",
    "protobuf<3.21",
    "keras==2.6.0",
    "tensorflow-estimator==2.6.0",
)


class UnavailableError(Exception):
    """The environment is missing and cannot be made; the message says why."""


def python() -> Path:
    """Path of the environment's interpreter; builds the environment if it is missing."""
    interpreter, marker = FOLDER / "bin" / "python", FOLDER / "installed"
    if not marker.exists():
        base = _find_python39()
        print(f"installing TensorFlow 2.6.4 into {FOLDER.name} (two minutes, once) ...", flush=True)
        _run([base, "-m", "venv", "--clear", FOLDER])
        _run([interpreter, "-m", "pip", "install", "--quiet", "wheel"])
        _run([interpreter, "-m", "pip", "install", "--quiet", *PACKAGES])
        marker.touch()
    return interpreter


def _find_python39() -> str:
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    installed = sorted(map(str, pyenv.glob("versions/3.9.*/bin/python3.9")))
    candidates = [os.environ.get("PYTHON39"), *installed, shutil.which("python3.9")]
    for candidate in filter(None, candidates):
        if subprocess.run([candidate, "--version"], capture_output=True).returncode == 0:
            return candidate
    raise UnavailableError(
        "no Python 3.9 was found, which TensorFlow 2.6.4 needs: install it or set PYTHON39 to its "
        "path"
    )


def _run(command: list) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UnavailableError(f"TensorFlow 2.6.4 cannot be installed:\n{done.stderr[-2000:]}")
