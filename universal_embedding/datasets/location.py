"""Where prepared data sets are, unless a flag says otherwise."""

import os
from pathlib import Path


def default_data_dir() -> str:
    """TFDS's own place: the variable TFDS_DATA_DIR, or `~/tensorflow_datasets`."""
    return os.environ.get("TFDS_DATA_DIR") or str(Path.home() / "tensorflow_datasets")
