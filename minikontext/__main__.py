"""`python -m minikontext` is the same as the `minikontext` command."""

import sys

from minikontext.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
