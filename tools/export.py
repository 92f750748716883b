"""`universal-embedding export`, from a checkout."""

import sys

from universal_embedding.cli import main

main(["export", *sys.argv[1:]])
