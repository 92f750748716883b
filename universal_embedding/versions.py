"""Versions of the libraries that a result depends on."""

import importlib.metadata
import platform
from collections.abc import Iterable

from universal_embedding import __version__


def library_versions(names: Iterable[str]) -> dict[str, str]:
    """Versions of Python, this package and the named distributions, for reports and configs.

    Returns:
        Version by name; `not installed` for a distribution that is absent.
    """
    versions = {"python": platform.python_version(), "universal_embedding": __version__}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # e.g. tensorflow where tensorflow-tpu is
            versions[name] = "not installed"
    return versions
