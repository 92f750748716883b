"""`python -m universal_embedding VERB ...` is the console script."""

from universal_embedding.cli import main

if __name__ == "__main__":
    main()
