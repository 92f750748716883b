"""The console script `universal-embedding VERB --flag=value ...`; each verb is a module."""

import argparse
import difflib
import errno
import importlib
import io
import logging as python_logging
import os
import re
import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn

from universal_embedding import __version__
from universal_embedding.errors import UserError, printable

VERBS = (
    "prepare",
    "train",
    "evaluate",
    "soup",
    "export",
    "embed",
    "index",
    "query",
    "evaluate-index",
    "duplicates",
    "serve",
    "make-solution",
    "score",
    "info",
)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs one verb and exits.

    Exit codes: 0 on success, 1 with one line on standard error for a `UserError` or a wrong flag,
    130 after Ctrl-C. Any other exception is a defect of the package and keeps its traceback.

    Args:
        argv: The verb and its flags; the process's own by default.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # Python gets every error that matters
    warnings.filterwarnings("ignore", module="keras|tensorflow")
    for stream in (sys.stdout, sys.stderr):  # a file name may hold bytes that are not UTF-8
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        args = parse(sys.argv[1:] if argv is None else argv)
        _set_up_logging()
        args.run(args)
    except UserError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        sys.exit(1)
    except Exception as error:
        reason = _storage_problem(error)
        if reason is None:
            raise
        print(f"error: {printable(reason)}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)


def _storage_problem(error: BaseException | None) -> str | None:
    """One line if a disk that is full or may not be written to is the cause; else None."""
    while error is not None:
        number = getattr(error, "errno", None)
        # TensorFlow, TFDS and ArrayRecord report these in words.
        text = " ".join(str(getattr(error, "message", error)).split())
        for code, remedy in _STORAGE_REMEDIES.items():
            if number == code or os.strerror(code) in text:
                path = getattr(error, "filename", None)
                where = os.fsdecode(path) if isinstance(path, str | bytes) else text[:200]
                return f"{where}: {os.strerror(code)}; {remedy}"
        error = error.__cause__ or error.__context__
    return None


_FREE_SPACE = "free some space and run the command again: what was complete is kept"
_CHOOSE = "choose a place where you may read and write"
_STORAGE_REMEDIES = {
    errno.ENOSPC: _FREE_SPACE,
    errno.EDQUOT: _FREE_SPACE,
    errno.EROFS: _CHOOSE,
    errno.EACCES: _CHOOSE,
    errno.EPERM: _CHOOSE,
    errno.EIO: "check the disk",
    errno.ENAMETOOLONG: "use a shorter name",
    errno.ENOTDIR: "a file is where a directory is needed; name another place",
}


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parses a verb and its flags.

    Returns:
        The flags of the verb, and `run`, the function of these flags that does the work. Flags
        that only the verb itself understands are in `unparsed`.

    Raises:
        UserError: a flag is wrong, missing or unknown.
    """
    parser = _Parser(prog="universal-embedding", description=_package_summary(), allow_abbrev=False)
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for verb in VERBS:
        module = importlib.import_module(f"universal_embedding.commands.{verb.replace('-', '_')}")
        summary, _, details = (module.__doc__ or "").partition("\n")
        command = verbs.add_parser(
            verb,
            help=summary,
            description=f"{summary}\n{details}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run, parser=command)
    args, unparsed = parser.parse_known_args(argv)
    args.unparsed = unparsed
    prefixes = getattr(args, "override_prefixes", ())
    for argument in unparsed:
        if argument.startswith("-") and not argument.startswith(prefixes or "\0"):
            raise UserError(_unknown_flag(argument, args.parser))
        if not prefixes:
            raise UserError(
                f"unexpected argument {argument!r} on the command line; flags are written "
                "--name=value, and --help lists them"
            )
    return args


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; `{self.prog} --help` lists the flags")


def _unknown_flag(argument: str, parser: argparse.ArgumentParser) -> str:
    name = argument.split("=")[0]
    close = difflib.get_close_matches(name, re.findall(r"--[\w-]+", parser.format_help()), 1)
    remedy = f"did you mean {close[0]}?" if close else f"`{parser.prog} --help` lists the flags"
    return f"there is no flag {name}; {remedy}"


def _package_summary() -> str:
    import universal_embedding

    return (universal_embedding.__doc__ or "").splitlines()[0]


def _set_up_logging() -> None:
    from absl import logging

    logging.set_verbosity(logging.WARNING)  # absl carries TensorFlow's own notes at INFO
    logging.use_absl_handler()
    python_logging.captureWarnings(False)
