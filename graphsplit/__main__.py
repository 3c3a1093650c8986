"""`python -m graphsplit` is the command `graphsplit`."""

from graphsplit.cli import main

if __name__ == "__main__":
    main(prog_name="graphsplit")
