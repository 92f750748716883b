"""Backbones: pictures `[B, S, S, 3]`, 0..255, to features `[B, F]`, normalisation inside."""

from universal_embedding.models.backbones.loading import load_backbone

__all__ = ["load_backbone"]
