"""One image embedding for every domain: train, evaluate, export and search.

    import universal_embedding as ue

    model = ue.Embedder.from_pretrained("runs/uned")
    embeddings = model.encode(["cat.jpg", "dog.png"])
    index = ue.ImageIndex.build(model, "photos/")

Importing the package imports no TensorFlow; the first use of a public name does where it must.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

__version__ = "0.1.0"
__all__ = [
    "Embedder",
    "EmbeddingTransform",
    "ImageIndex",
    "UserError",
    "evaluate",
    "list_backbones",
    "load_backbone",
]

if TYPE_CHECKING:
    from universal_embedding.app.image_index import ImageIndex
    from universal_embedding.errors import UserError
    from universal_embedding.evaluation.evaluate import evaluate
    from universal_embedding.evaluation.transforms import EmbeddingTransform
    from universal_embedding.export.embedder import Embedder
    from universal_embedding.models.backbones import list_backbones, load_backbone

_MODULES = {
    "Embedder": "universal_embedding.export.embedder",
    "EmbeddingTransform": "universal_embedding.evaluation.transforms",
    "ImageIndex": "universal_embedding.app.image_index",
    "UserError": "universal_embedding.errors",
    "evaluate": "universal_embedding.evaluation.evaluate",
    "list_backbones": "universal_embedding.models.backbones",
    "load_backbone": "universal_embedding.models.backbones",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
