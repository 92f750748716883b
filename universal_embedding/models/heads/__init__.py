"""Classifier heads: cosine softmax with margins, over any number of classes."""

from universal_embedding.models.heads.margin_head import MarginHead
from universal_embedding.models.heads.sharding import all_gather
from universal_embedding.models.heads.softmax import (
    NEG_INF,
    class_logits,
    class_margins,
    l2_normalize,
)

__all__ = [
    "NEG_INF",
    "MarginHead",
    "all_gather",
    "class_logits",
    "class_margins",
    "l2_normalize",
]
