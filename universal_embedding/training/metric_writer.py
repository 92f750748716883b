"""Progress bar, `metrics.jsonl` and TensorBoard events of a run."""

import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from universal_embedding.files import atomic_write
from universal_embedding.training.growing_files import GrowingFiles
from universal_embedding.training.host_log import RUN_LOGGER

_LOGGER = logging.getLogger(RUN_LOGGER)
METRICS_FILE = "metrics.jsonl"


class MetricWriter:
    """Writes the metrics of a run as they come.

    When a run resumes, the rows after the step that it resumes from are removed, so `metrics.jsonl`
    reads as if the run had never been interrupted. In a remote run directory the files appear with
    a delay, see `GrowingFiles`.

    Args:
        workdir: The run directory; None writes nothing (workers other than the chief).
        start_step: The step that the run starts from.
        num_steps: The step that it ends at.
        batch_size: Images per step.

    Attributes:
        batch_size: Images per step, from which the speed is computed; stages may change it.
    """

    def __init__(
        self, workdir: Path | None, start_step: int, num_steps: int, batch_size: int
    ) -> None:
        self.batch_size = batch_size
        self._timer_start, self._timer_step = time.monotonic(), start_step
        self._bar = tqdm(
            total=num_steps,
            initial=start_step,
            unit="step",
            disable=workdir is None,
            dynamic_ncols=True,
        )
        self._listeners: list[Callable[[int, Mapping[str, float]], None]] = []
        self._files: GrowingFiles | None = None
        self._file: IO[str] | None = None
        self._events: Any = None  # a tf.summary.SummaryWriter
        if workdir is not None:
            self._files = GrowingFiles(workdir)
            path = self._files.folder / METRICS_FILE
            _copy_rows(workdir / METRICS_FILE, path, start_step)
            self._file = path.open("a")
            self._events = tf.summary.create_file_writer(str(self._files.folder / "events"))

    def add_listener(self, listener: Callable[[int, Mapping[str, float]], None]) -> None:
        """Adds a function of `(step, row)` that gets every row of metrics as well."""
        self._listeners.append(listener)

    def update_progress(self, step: int) -> None:
        """Moves the progress bar to `step`."""
        self._bar.update(step - self._bar.n)

    def write_train_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes training metrics, and the images per second since the timer's last use."""
        now = time.monotonic()
        num_images = (step - self._timer_step) * self.batch_size
        rate = num_images / max(now - self._timer_start, 1e-9)
        self._timer_start, self._timer_step = now, step
        summary = {
            name: f"{value:.3g}"
            for name, value in scalars.items()
            if not isinstance(value, int) and ("/" not in name or name.startswith("lr/"))
        }
        summary["images/s"] = f"{rate:.0f}"
        self._bar.set_postfix(summary)
        _LOGGER.info("step %d: %s", step, ", ".join(f"{k} {v}" for k, v in summary.items()))
        self.write_scalars(step, {**scalars, "images_per_second": rate})

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes one row of metrics at `step`; integers, which identify, to the file alone."""
        if self._file is None or self._files is None:
            return
        row = {n: value if isinstance(value, int) else float(value) for n, value in scalars.items()}
        self._file.write(json.dumps({"step": step, **row}) + "\n")
        self._file.flush()
        with self._events.as_default(step):
            for name, value in row.items():
                if not isinstance(value, int):
                    tf.summary.scalar(name, value)
        self._events.flush()
        self._files.copy_when_due()
        for listener in self._listeners:
            listener(step, row)

    def write_images(self, step: int, name: str, images: np.ndarray) -> None:
        """Writes images `[N, H, W, 3]`, 0..255, to TensorBoard."""
        if self._events is not None:
            with self._events.as_default(step):
                images = np.clip(images, 0, 255).astype(np.uint8)
                tf.summary.image(name, images, max_outputs=len(images))

    def log(self, text: str) -> None:
        """Prints a line above the progress bar; on every host, it goes into its log."""
        _LOGGER.info("%s", text)
        if self._file is not None:
            tqdm.write(text)

    def pause_timer(self) -> None:
        """Excludes the time since the timer's last use from `images_per_second`."""
        self._timer_start, self._timer_step = time.monotonic(), int(self._bar.n)

    def close(self) -> None:
        """Ends the progress bar and closes the files."""
        self._bar.close()
        if self._file is not None and self._files is not None:
            self._file.close()
            self._events.close()
            self._files.close()


def _copy_rows(source: Path, target: Path, step: int) -> None:
    """Copies the rows up to a step, in place if both are one file."""
    if not source.exists():
        return
    rows = [row for row in read_rows(source) if row["step"] <= step]
    with atomic_write(target) as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


def read_rows(path: Path) -> list[dict[str, float]]:
    """Reads the rows of a `metrics.jsonl` but damaged ones, such as the last of a killed run.

    Returns:
        Dictionaries with `step` and other numbers; none if there is no file.
    """
    rows = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows
