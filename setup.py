"""For tools that do not read pyproject.toml yet; everything is there."""

from setuptools import setup

setup()
