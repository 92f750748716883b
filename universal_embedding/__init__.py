"""One image embedding for every domain: train it, export it, prove how good it is."""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

__version__ = "0.1.0"
