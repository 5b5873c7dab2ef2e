"""`python -m pipeline` is the `mentee` command."""

from pipeline.cli import main

main()
