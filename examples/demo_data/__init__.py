"""Synthetic images for the demo: eight domains in UnED's layout and a gallery to search."""

from examples.demo_data.generate import DOMAINS, DemoDomain, render_domains, render_gallery

__all__ = ["DOMAINS", "DemoDomain", "render_domains", "render_gallery"]
