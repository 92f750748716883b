"""Trained models for use elsewhere: the `Embedder`, SavedModels, submission zips, model cards."""
