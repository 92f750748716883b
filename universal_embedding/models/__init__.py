"""Backbone -> dropout -> Dense -> L2 norm, and the classifier heads that train it."""
