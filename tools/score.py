"""`universal-embedding score`, from a checkout."""

import sys

from universal_embedding.cli import main

main(["score", *sys.argv[1:]])
