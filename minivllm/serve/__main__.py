"""`python -m minivllm.serve`: see cli.py."""

import sys

from minivllm.serve.cli import main

if __name__ == "__main__":
    sys.exit(main())
