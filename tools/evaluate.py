"""`universal-embedding evaluate`, from a checkout."""

import sys

from universal_embedding.cli import main

main(["evaluate", *sys.argv[1:]])
