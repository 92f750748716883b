"""Stages, losses, distribution strategy and checkpoints."""
