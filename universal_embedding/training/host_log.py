"""Log of one host of a run: what it did, warned of and ended with, in a file of its own."""

import logging
import socket
from pathlib import Path

from universal_embedding.files import is_remote
from universal_embedding.training.growing_files import GrowingFiles

RUN_LOGGER = "universal_embedding"  # the program's own lines; warnings go through absl


class HostLog:
    """Context in which `logs/host-<id>.log` of a run directory gets the lines of this host.

    Each line has the time, the host's name and the level. A resumed run appends.

    Args:
        workdir: The run directory.
        host_id: This host among those of the run.
    """

    def __init__(self, workdir: Path, host_id: int) -> None:
        self._files = GrowingFiles(workdir / "logs")
        name = f"host-{host_id}.log"
        path, earlier = self._files.folder / name, workdir / "logs" / name
        if is_remote(workdir) and earlier.exists():
            path.write_text(earlier.read_text())
        self._handler = logging.FileHandler(path, encoding="utf-8")
        format_string = f"%(asctime)s {socket.gethostname()} %(levelname)s %(message)s"
        self._handler.setFormatter(logging.Formatter(format_string))
        self._loggers = [logging.getLogger(RUN_LOGGER), logging.getLogger("absl")]

    def __enter__(self) -> "HostLog":
        for logger in self._loggers:
            logger.addHandler(self._handler)
        self._loggers[0].setLevel(logging.INFO)
        self._loggers[0].propagate = False  # the chief's terminal gets its lines from the writer
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        if kind is not None:
            self._loggers[0].error("%s: %s", kind.__name__, error)
        for logger in self._loggers:
            logger.removeHandler(self._handler)
        self._handler.close()
        self._files.close()
