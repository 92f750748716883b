"""Invented names for classes."""

import numpy as np

STARTS = [
    "al",
    "be",
    "ca",
    "do",
    "el",
    "fi",
    "ga",
    "ho",
    "in",
    "jo",
    "ka",
    "lu",
    "mo",
    "ne",
    "or",
    "pa",
    "qui",
    "ro",
    "sa",
    "ti",
    "ul",
    "va",
    "wi",
    "yo",
    "za",
]
ENDS = [
    "ba",
    "co",
    "da",
    "fe",
    "go",
    "la",
    "lo",
    "ma",
    "mi",
    "na",
    "no",
    "ra",
    "ri",
    "sa",
    "so",
    "ta",
    "to",
    "va",
    "ve",
    "zo",
]
TAILS = ["", "", "n", "r", "s", "l", "ne", "ra", "lis"]


def names(rng: np.random.Generator, count: int) -> list[str]:
    """`count` different names, short and pronounceable."""
    found: dict[str, None] = {}
    while len(found) < count:
        parts = (STARTS, ENDS, TAILS)
        found["".join(part[rng.integers(len(part))] for part in parts)] = None
    return list(found)
