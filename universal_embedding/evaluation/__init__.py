"""Retrieval evaluation: embedding sources, protocols, metrics and their statistics."""
