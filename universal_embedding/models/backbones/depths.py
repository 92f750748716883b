"""Depth of each weight in the network, for layer-wise learning rates."""

import re

import keras

_BLOCK = re.compile(
    r".*(?:(?:block|layer)(?:s?_+\d+(?:_\d+)?|s?\d+[a-z]?)|expanded_conv(?:_\d+)?)(?![0-9])"
)
_STAGE = re.compile(r".*(?:stage|stack)s?_*\d+(?![0-9])")


def layer_depths(backbone: keras.Model) -> dict[str, float]:
    """Maps the path of each weight to its depth, from 0 at the image to 1 at the features.

    The weights of a block (transformer block, residual block, ...) share one depth, and so do those
    before the first block and those after the last. The layer-wise decay of BEiT (arXiv 2106.08254)
    is `learning_rate * decay ** (num_depths * (1 - depth))`.
    """
    paths = [weight.path for weight in backbone.weights]
    blocks = [_block_prefix(path) for path in paths]
    if not any(blocks):  # the names tell nothing: every layer at the top level is a block
        parts = [path.split("/") for path in paths]
        while len({part[0] for part in parts}) == 1 and min(map(len, parts)) > 2:
            parts = [part[1:] for part in parts]  # models that only wrap another one
        blocks = [part[0] for part in parts]
    depth, previous = 0, None
    depth_of_block: dict[str | None, int] = {}
    index_of_path: dict[str, int] = {}
    for path, block in zip(paths, blocks, strict=True):
        if block not in depth_of_block and block != previous:
            depth += bool(index_of_path)
        previous = block
        if block:
            depth_of_block.setdefault(block, depth)
        index_of_path[path] = depth_of_block.get(block, depth)
    return {path: index / max(depth, 1) for path, index in index_of_path.items()}


def num_depths(backbone: keras.Model) -> int:
    """Counts the distinct depths of `backbone`: for a transformer, its blocks plus two."""
    return len(set(layer_depths(backbone).values()))


def block_names(backbone: keras.Model) -> list[str]:
    """Names of the layers that are blocks with layers of their own."""
    parts = [weight.path.split("/") for weight in backbone.weights]
    names = [part for path in parts for part in path[:-2] if _BLOCK.fullmatch(part)]
    return list(dict.fromkeys(names))


def _block_prefix(path: str) -> str | None:
    """Prefix of a weight's path that names its block, or else its stage."""
    parts = path.split("/")
    for pattern in (_BLOCK, _STAGE):
        for index, part in enumerate(parts):
            if match := pattern.match(part):
                return "/".join([*parts[:index], match.group()])
    return None
