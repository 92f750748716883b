"""Backbones: images `[B, S, S, 3]` in 0..255 to features `[B, F]`, normalization included."""

from universal_embedding.models.backbones.architecture import (
    from_json,
    rebuild,
    resize_backbone,
    to_json,
)
from universal_embedding.models.backbones.depths import block_names, layer_depths, num_depths
from universal_embedding.models.backbones.fusion import FusedBackbone, list_towers, split_spec
from universal_embedding.models.backbones.loading import (
    is_hub_handle,
    list_backbones,
    load_backbone,
)

__all__ = [
    "FusedBackbone",
    "block_names",
    "from_json",
    "is_hub_handle",
    "layer_depths",
    "list_backbones",
    "list_towers",
    "load_backbone",
    "num_depths",
    "rebuild",
    "resize_backbone",
    "split_spec",
    "to_json",
]
