"""One image embedding for every domain: train it, export it, prove how good it is."""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Loads TensorFlow only for those who embed: `universal_embedding.load` is imported late."""
    if name == "load":
        from universal_embedding.export.loading import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
