"""`python -m minivllm.course`."""

import sys

from minivllm.course.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
