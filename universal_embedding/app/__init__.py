"""Search your own images: an index of a folder, its evaluation, and a web page."""
