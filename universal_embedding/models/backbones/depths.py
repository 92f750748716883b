"""How deep in the network each weight stands, for layer-wise learning rates."""

import re

import keras

_BLOCK = re.compile(
    r".*(?:(?:block|layer)(?:s?_+\d+(?:_\d+)?|s?\d+[a-z]?)|expanded_conv(?:_\d+)?)(?![0-9])"
)
_STAGE = re.compile(r".*(?:stage|stack)s?_*\d+(?![0-9])")


def depths(backbone: keras.Model) -> dict[str, float]:
    """The path of each weight -> its depth, 0 at the picture to 1 at the features.

    A depth is shared by the weights of a block (transformer block, residual block, ...), by what
    comes before the first block, and by what follows the last. The layer-wise decay of BEiT
    (arXiv 2106.08254) is `rate * decay ** (number_of_depths * (1 - depth))`.
    """
    paths = [weight.path for weight in backbone.weights]
    blocks = [_block(path) for path in paths]
    if not any(blocks):  # no name tells: every layer at the top is a block
        parts = [path.split("/") for path in paths]
        while len({part[0] for part in parts}) == 1 and min(map(len, parts)) > 2:
            parts = [part[1:] for part in parts]  # models that only hold the next one
        blocks = [part[0] for part in parts]
    depth, last, of_block, found = 0, None, {}, {}
    for path, block in zip(paths, blocks, strict=True):
        if block not in of_block and block != last:
            depth += bool(found)
        last = block
        if block:
            of_block.setdefault(block, depth)
        found[path] = of_block.get(block, depth)
    return {path: number / max(depth, 1) for path, number in found.items()}


def number_of_depths(backbone: keras.Model) -> int:
    """How many different depths `backbone` has: for a transformer, its blocks and two."""
    return len(set(depths(backbone).values()))


def block_names(backbone: keras.Model) -> list[str]:
    """Names of the layers that are blocks with layers of their own."""
    parts = [weight.path.split("/") for weight in backbone.weights]
    names = [part for path in parts for part in path[:-2] if _BLOCK.fullmatch(part)]
    return list(dict.fromkeys(names))


def _block(path: str) -> str | None:
    """The part of a path that names the block, or else the stage, that a weight belongs to."""
    parts = path.split("/")
    for pattern in (_BLOCK, _STAGE):
        for number, part in enumerate(parts):
            if match := pattern.match(part):
                return "/".join([*parts[:number], match.group()])
    return None
