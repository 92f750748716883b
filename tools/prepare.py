"""`universal-embedding prepare`, from a checkout."""

import sys

from universal_embedding.cli import main

main(["prepare", *sys.argv[1:]])
