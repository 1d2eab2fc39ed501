"""`python -m minivllm.serve`: see cli.py."""

import logging
import os
import sys

from minivllm.serve.cli import main

if __name__ == "__main__":
    status = main()
    # By now the engine's thread is joined and every socket closed. Taking torch apart module by module would keep the
    # user waiting at the prompt for up to seconds, and free nothing that the end of the process does not.
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
