"""Nearest-neighbor search: exact and approximate."""
