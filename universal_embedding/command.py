"""How every command-line program of the package starts and ends."""

import os
import sys
from collections.abc import Callable

from absl import app, flags, logging

from universal_embedding.errors import UserError

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # Python gets every error that matters


def run(main: Callable[[list[str]], None], commands: tuple[str, ...] = ()) -> None:
    """Parses absl flags, calls `main(argv)` and exits.

    Exit codes: 0 on success, 1 with one line on standard error for a `UserError` or a wrong flag,
    130 after Ctrl-C. Any other exception is a defect of the package and keeps its traceback.

    Args:
        main: Called with the program's name and, if there are `commands`, the one given.
        commands: Names of which exactly one stands on the command line before or among the flags.
    """
    logging.set_verbosity(logging.WARNING)  # absl carries TensorFlow's own notes at INFO
    logging.use_absl_handler()
    app.run(_guarded(main, commands), flags_parser=_parse_flags)


def _parse_flags(argv: list[str]) -> list[str]:
    """Parses flags, with one line for whatever is wrong with them or with a --config file."""
    try:
        return flags.FLAGS(argv)
    except (flags.Error, UserError) as error:
        # ml_collections adds a traceback to what a config's own code raises; its last line says it.
        before, _, trace = str(error).partition("Traceback (most recent call last):")
        reason = " ".join([before, *trace.strip().splitlines()[-1:]])
    except (AttributeError, KeyError, IndexError) as error:
        # ml_collections raises these for an override of a field that a config does not have.
        told = str(error.args[0]).replace("\\n", " ").replace("\\'", "'")
        reason = f"a --config override names no field of the config: {told}"
    except Exception as error:  # only a config's own code runs here
        reason = f"--config cannot be loaded: {type(error).__name__}: {error}"
    print("error:", " ".join(reason.split()), file=sys.stderr)
    sys.exit(1)


def _guarded(
    main: Callable[[list[str]], None], commands: tuple[str, ...]
) -> Callable[[list[str]], None]:
    def guarded(argv: list[str]) -> None:
        try:
            _check_arguments(argv[1:], commands)
            main(argv)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(130)

    return guarded


def _check_arguments(arguments: list[str], commands: tuple[str, ...]) -> None:
    if commands and (len(arguments) != 1 or arguments[0] not in commands):
        raise UserError(f"got {arguments}; give exactly one command of: {', '.join(commands)}")
    if arguments and not commands:
        raise UserError(
            f"unexpected argument {arguments[0]!r} on the command line; flags are written "
            "--name=value, and --help lists them"
        )
