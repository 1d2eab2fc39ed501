"""`minivllm COMMAND ...`, or `python -m minivllm COMMAND ...`, as `vllm serve`, `vllm bench` and `vllm run-batch`.

minivllm serve MODEL        the same as python -m minivllm.serve MODEL
"""

from __future__ import annotations

import runpy
import sys

COMMANDS = {  # command -> (the module it runs, what that does)
    "serve": ("minivllm.serve", "serve a model over OpenAI's HTTP API, with a chat page"),
    "bench": ("minivllm.bench", "measure: throughput, latency, a running server, ..."),
    "run-batch": ("minivllm.run_batch", "a file of requests in, a file of answers out"),
    "course": ("minivllm.course", "the exercises: what to do next, hints, grading"),
    "sim": ("minivllm.sim", "simulate memory policies and schedulers, without a model"),
}


def main() -> None:
    """Run a command as if its module had been named.

    Raises:
        SystemExit: of the command; or 2, with the list of commands, for a word that is none.
    """
    given = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if given in ("-h", "--help"):
        print(_usage())
        return
    if given not in COMMANDS:
        print(f"minivllm: there is no command {given[:40]!r}.\n{_usage()}", file=sys.stderr)
        raise SystemExit(2)
    module, _ = COMMANDS[given]
    sys.argv[:2] = [f"minivllm {given}"]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _usage() -> str:
    lines = [f"  {name:12}{what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(["usage: minivllm COMMAND ...", "", *lines, "", "minivllm COMMAND --help tells more."])


if __name__ == "__main__":
    main()
