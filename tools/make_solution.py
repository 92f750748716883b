"""`universal-embedding make-solution`, from a checkout."""

import sys

from universal_embedding.cli import main

main(["make-solution", *sys.argv[1:]])
