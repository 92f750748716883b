"""Starts the project's programs as a user does: each in its own process."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from universal_embedding import cli

ROOT = Path(__file__).resolve().parent.parent.parent


def start(*arguments, **environment):
    """Starts `python ARGUMENTS` on one CPU device; stdout and stderr are text pipes.

    Use `start("-m", "universal_embedding", "train", "--config=...")` for the console script.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        **environment,
    }
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process, seconds=300):
    """Exit code, stdout and stderr; kills a process that hangs."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"still running after {seconds} s:\n{out}\n{err}") from None
    return process.returncode, out, err


def run(*arguments, **environment):
    """Runs `python ARGUMENTS` to its end; exit code, stdout and stderr."""
    return finish(start(*arguments, **environment))


def run_cli(verb, *arguments, **environment):
    """Runs `universal-embedding VERB ARGUMENTS` to its end; exit code, stdout and stderr."""
    return run("-m", "universal_embedding", verb, *arguments, **environment)


def call_cli(verb, *arguments):
    """As `run_cli` within this process: seconds faster, but deaf to what C libraries print."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main([verb, *map(str, arguments)])
        except SystemExit as ended:
            return ended.code, out.getvalue(), err.getvalue()


def kill_when(process, condition):
    """Sends SIGKILL as soon as `condition()` holds; whether the process was still running."""
    while process.poll() is None and not condition():
        time.sleep(0.001)
    process.kill()
    code, _, err = finish(process)
    assert "Traceback" not in err, err
    return code == -signal.SIGKILL
