"""Classifier heads: cosine softmax with margins, over any number of classes."""

from universal_embedding.models.heads.margin_head import MarginHead
from universal_embedding.models.heads.margins import dynamic_margins

__all__ = ["MarginHead", "dynamic_margins"]
