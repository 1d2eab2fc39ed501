"""`python -m minivllm.sim`: see cli.py."""

import sys

from minivllm.sim.cli import main

if __name__ == "__main__":
    sys.exit(main())
