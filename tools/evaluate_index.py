"""`universal-embedding evaluate-index`, from a checkout."""

import sys

from universal_embedding.cli import main

main(["evaluate-index", *sys.argv[1:]])
