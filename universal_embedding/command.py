"""How every command-line program of the package starts and ends."""

import os
import sys
from collections.abc import Callable

from absl import app, logging

from universal_embedding.errors import UserError

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # the native library's own chatter


def run(main: Callable[[list[str]], None]) -> None:
    """Parses absl flags, calls `main(argv)` and exits.

    Exit codes: 0 on success, 1 with one line on standard error for a `UserError` or a wrong flag,
    130 after Ctrl-C. Any other exception is a defect of the package and keeps its traceback.
    """
    logging.set_verbosity(logging.INFO)
    logging.use_absl_handler()
    app.run(_guarded(main))


def _guarded(main: Callable[[list[str]], None]) -> Callable[[list[str]], None]:
    def guarded(argv: list[str]) -> None:
        try:
            if len(argv) > 1:
                raise UserError(
                    f"unexpected argument {argv[1]!r} on the command line; flags are written "
                    "--name=value, and --help lists them"
                )
            main(argv)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(130)

    return guarded
