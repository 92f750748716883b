"""Files of a run that grow while it trains, such as its metrics."""

import tempfile
import time
from pathlib import Path

from universal_embedding.files import atomic_write, is_remote


class GrowingFiles:
    """A local directory whose files are copied to a remote run directory from time to time.

    An object store cannot append: each copy of a file writes all of it.

    Args:
        workdir: The run directory. Of a local one nothing is copied.
        every_seconds: Least time between two copies.

    Attributes:
        folder: Where to write: the run directory itself if it is local.
    """

    def __init__(self, workdir: Path, every_seconds: float = 60.0) -> None:
        self._workdir, self._every_seconds = workdir, every_seconds
        self._scratch = tempfile.TemporaryDirectory() if is_remote(workdir) else None
        self.folder = Path(self._scratch.name) if self._scratch else workdir
        self.folder.mkdir(parents=True, exist_ok=True)
        self._copied_bytes: dict[Path, int] = {}
        self._copied_at = time.monotonic()

    def copy_when_due(self) -> None:
        """Copies what has grown, unless that was done a short while ago."""
        if time.monotonic() - self._copied_at >= self._every_seconds:
            self._copy()

    def close(self) -> None:
        """Copies what has grown since, and removes the local directory of a remote run."""
        self._copy()
        if self._scratch:
            self._scratch.cleanup()

    def _copy(self) -> None:
        self._copied_at = time.monotonic()
        if not self._scratch:
            return
        for path in sorted(p for p in self.folder.rglob("*") if p.is_file()):
            content = path.read_bytes()
            if self._copied_bytes.get(path) != len(content):
                target = self._workdir / path.relative_to(self.folder).as_posix()
                with atomic_write(target, "wb") as file:
                    file.write(content)
                self._copied_bytes[path] = len(content)
