"""`universal-embedding query`, from a checkout."""

import sys

from universal_embedding.cli import main

main(["query", *sys.argv[1:]])
