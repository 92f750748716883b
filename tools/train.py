"""`universal-embedding train`, from a checkout."""

import sys

from universal_embedding.cli import main

main(["train", *sys.argv[1:]])
