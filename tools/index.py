"""`universal-embedding index`, from a checkout."""

import sys

from universal_embedding.cli import main

main(["index", *sys.argv[1:]])
