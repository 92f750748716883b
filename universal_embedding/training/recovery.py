"""Recovery from a lost host or maintenance: the command restarts, and the run resumes."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator

import tensorflow as tf
from absl import logging

from universal_embedding.errors import UserError

MAX_RESTARTS = 3  # in a row, without progress
SECONDS_BEFORE_RESTART = 5.0  # times the number of the restart
_VARIABLE = "UNIVERSAL_EMBEDDING_RESTARTS"  # "<restarts>@<progress>" of this command so far
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)


@contextlib.contextmanager
def restart_when_lost(progress: Callable[[], int]) -> Iterator[None]:
    """Restarts the process when the block loses a host, a TPU or a file server.

    TensorFlow cannot mend a cluster within a process: its collectives stay aborted, and a host that
    comes back is another one. So the process becomes a new one of the same command, with the same
    process id, which waits for the others (up to an hour, as TensorFlow does).

    Args:
        progress: A number that grows, such as the step of the newest checkpoint. Restarts are
            counted anew when it has grown.

    Raises:
        UserError: the block failed again after `MAX_RESTARTS` restarts without progress.
    """
    try:
        yield
    except _LOST as error:
        reason = _describe(error)
        count, value = _read_count(), progress()
        restarts = count[0] if count[1] == value else 0
        if restarts == MAX_RESTARTS:
            raise UserError(
                f"a host of the run, its TPU or its storage was lost {restarts + 1} times in a row "
                f"without progress ({reason}); check that all hosts run, then rerun the command on "
                "each to resume"
            ) from error
        logging.warning(
            "lost a host, a TPU or storage (%s): restart %d of %d",
            reason,
            restarts + 1,
            MAX_RESTARTS,
        )
        time.sleep((restarts + 1) * SECONDS_BEFORE_RESTART)
        os.environ[_VARIABLE] = f"{restarts + 1}@{value}"
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _read_count() -> tuple[int, int]:
    restarts, _, value = os.environ.get(_VARIABLE, "0@-1").partition("@")
    return int(restarts), int(value)


def _describe(error: tf.errors.OpError) -> str:
    """The line of TensorFlow's message that says what happened."""
    lines = [line.strip() for line in str(error.message).splitlines() if line.strip()]
    causes = [line for line in lines if "rpc" in line.lower() or "aborted" in line.lower()]
    return f"{type(error).__name__}: {(causes or lines or ['no reason given'])[0][:200]}"
