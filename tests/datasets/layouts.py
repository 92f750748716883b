"""Miniature data sets on disk, in their published layouts."""

import json
from pathlib import Path

import numpy as np
from PIL import Image


def picture(path: Path, number: int = 0, **options) -> Path:
    """Writes a small picture of noise, different for each number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def tree(root: Path, domain: str, splits: dict[str, list[tuple[str, int | list[int]]]]) -> Path:
    """Writes one domain in UnED's layout: (path, class id or ids) of each split."""
    number = 0
    for split, rows in splits.items():
        file = root / "info_files" / domain / f"{split}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps([{"path": path, "class_id": label} for path, label in rows]))
        for path, _ in rows:
            number += 1
            if not (root / "images" / path).exists():
                picture(root / "images" / path, number)
    return root


def small_tree(root: Path) -> Path:
    """Two domains, one with an index of its own and several labels on a query."""
    tree(
        root,
        "toys",
        {
            "train": [(f"toys/a/{i}.jpg", i % 3) for i in range(7)],
            "val": [("toys/b/0.png", 10), ("toys/b/1.png", 10)],
            "test": [("toys/c/0.jpg", [20, 21]), ("toys/c/1.jpg", 20)],
            "index": [("toys/d/0.jpg", 20), ("toys/d/1.jpg", 21), ("toys/d/2.jpg", 22)],
        },
    )
    return tree(
        root,
        "birds",
        {"train": [("birds/x.jpg", 0)], "test": [("birds/y.jpg", 5), ("birds/z.jpg", 5)]},
    )
