"""Backbone -> dropout -> Dense -> L2 norm, the classifier heads that train it, and inference."""
