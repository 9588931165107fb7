"""`python -m modalbatch`: the command without its script. Runs on: laptop."""

import sys

from modalbatch.cli import main

if __name__ == "__main__":
    sys.exit(main())
