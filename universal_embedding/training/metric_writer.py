"""Progress bar, `metrics.jsonl` and TensorBoard events of a run."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from universal_embedding.files import atomic_write


class MetricWriter:
    """Writes the metrics of a run as they come.

    When a run resumes, the rows after the step that it resumes from are removed, so `metrics.jsonl`
    reads as if the run had never been interrupted.

    Args:
        workdir: The run directory; None writes nothing (workers other than the chief).
        start_step: The step that the run starts from.
        num_steps: The step that it ends at.
        batch_size: Images per step.
    """

    def __init__(
        self, workdir: Path | None, start_step: int, num_steps: int, batch_size: int
    ) -> None:
        self._batch_size = batch_size
        self._timer_start, self._timer_step = time.monotonic(), start_step
        self._bar = tqdm(
            total=num_steps,
            initial=start_step,
            unit="step",
            disable=workdir is None,
            dynamic_ncols=True,
        )
        self._file: IO[str] | None = None
        self._events: Any = None  # a tf.summary.SummaryWriter
        if workdir is not None:
            workdir.mkdir(parents=True, exist_ok=True)
            path = workdir / "metrics.jsonl"
            _drop_rows_after(path, start_step)
            self._file = path.open("a")
            self._events = tf.summary.create_file_writer(str(workdir / "events"))

    def update_progress(self, step: int) -> None:
        """Moves the progress bar to `step`."""
        self._bar.update(step - self._bar.n)

    def write_train_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes training metrics, and the images per second since the timer's last use."""
        now = time.monotonic()
        num_images = (step - self._timer_step) * self._batch_size
        rate = num_images / max(now - self._timer_start, 1e-9)
        self._timer_start, self._timer_step = now, step
        summary = {k: f"{v:.3g}" for k, v in scalars.items() if "/" not in k or k.startswith("lr/")}
        self._bar.set_postfix({**summary, "images/s": f"{rate:.0f}"})
        self.write_scalars(step, {**scalars, "images_per_second": rate})

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes one row of metrics at `step`."""
        if self._file is None:
            return
        row = {name: float(value) for name, value in scalars.items()}
        self._file.write(json.dumps({"step": step, **row}) + "\n")
        self._file.flush()
        with self._events.as_default(step):
            for name, value in row.items():
                tf.summary.scalar(name, value)
        self._events.flush()

    def write_images(self, step: int, name: str, images: np.ndarray) -> None:
        """Writes images `[N, H, W, 3]`, 0..255, to TensorBoard."""
        if self._events is not None:
            with self._events.as_default(step):
                images = np.clip(images, 0, 255).astype(np.uint8)
                tf.summary.image(name, images, max_outputs=len(images))

    def log(self, text: str) -> None:
        """Prints a line above the progress bar."""
        if self._file is not None:
            tqdm.write(text)

    def pause_timer(self) -> None:
        """Excludes the time since the timer's last use from `images_per_second`."""
        self._timer_start, self._timer_step = time.monotonic(), int(self._bar.n)

    def close(self) -> None:
        """Ends the progress bar and closes the files."""
        self._bar.close()
        if self._file is not None:
            self._file.close()
            self._events.close()


def _drop_rows_after(path: Path, step: int) -> None:
    if not path.exists():
        return
    rows = [row for row in read_rows(path) if row["step"] <= step]
    with atomic_write(path) as file:
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
