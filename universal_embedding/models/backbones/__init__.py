"""Backbones: pictures `[B, S, S, 3]`, 0..255, to features `[B, F]`, normalisation inside."""

from universal_embedding.models.backbones.architecture import from_json, rebuild, to_json
from universal_embedding.models.backbones.depths import depths, number_of_depths
from universal_embedding.models.backbones.loading import load_backbone
from universal_embedding.models.backbones.sizes import at_size

__all__ = [
    "at_size",
    "depths",
    "from_json",
    "load_backbone",
    "number_of_depths",
    "rebuild",
    "to_json",
]
