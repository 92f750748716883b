"""`universal-embedding serve`, from a checkout."""

import sys

from universal_embedding.cli import main

main(["serve", *sys.argv[1:]])
