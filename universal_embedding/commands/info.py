"""Print versions, devices and prepared data sets, for a bug report.

universal-embedding info

Paths are shown without the name of your home directory; nothing else of the machine is read.
"""

import argparse
import os
import platform
from pathlib import Path

from universal_embedding.commands.arguments import add_data_dir
from universal_embedding.errors import UserError

LIBRARIES = (
    *("tensorflow", "tensorflow-cpu", "tensorflow-tpu", "libtpu", "keras", "keras-hub"),
    *("tensorflow-datasets", "scann", "numpy", "pillow", "ml-collections", "apache-beam"),
    *("pyarrow", "starlette", "onnxruntime"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `info`."""
    add_data_dir(parser)


def run(args: argparse.Namespace) -> None:
    """Prints the facts as lines of `name: value`."""
    from universal_embedding.datasets.records import default_data_dir
    from universal_embedding.versions import library_versions

    print(f"system: {platform.platform()}, {os.cpu_count()} cores, {_memory()}")
    for name, version in library_versions(LIBRARIES).items():
        if version != "not installed":
            print(f"{name}: {version}")
    for line in _devices():
        print(f"device: {line}")
    data_dir = args.data_dir or default_data_dir()
    print(f"data_dir: {_without_home(data_dir)}")
    for line in _prepared(data_dir):
        print(f"prepared: {line}")


def _memory() -> str:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return "memory unknown"
    return f"{size / 1e9:.0f} GB"


def _devices() -> list[str]:
    try:
        import tensorflow as tf
    except Exception as error:  # a broken installation is what one asks about
        return [f"TensorFlow cannot be imported: {type(error).__name__}: {error}"]
    lines = []
    for device in tf.config.list_physical_devices():
        details = tf.config.experimental.get_device_details(device)
        lines.append(" ".join(filter(None, [device.name, details.get("device_name", "")])))
    return lines


def _prepared(data_dir: str) -> list[str]:
    """One line for each prepared data set: its domains, or why it cannot be read."""
    from universal_embedding.datasets.records import list_prepared_domains
    from universal_embedding.files import as_path, list_directory

    lines = []
    for folder in sorted(list_directory(as_path(data_dir)), key=lambda path: path.name):
        try:
            domains = ", ".join(list_prepared_domains(data_dir, folder.name))
        except UserError as error:
            if str(error).startswith("nothing is prepared"):
                continue
            domains = str(error)
        lines.append(f"{folder.name}: {_without_home(domains)}")
    return lines or ["nothing"]


def _without_home(text: str) -> str:
    return str(text).replace(str(Path.home()), "~")
