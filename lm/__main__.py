"""`python -m lm` is the `lm` command."""

from lm.cli import main

if __name__ == "__main__":
    main()
