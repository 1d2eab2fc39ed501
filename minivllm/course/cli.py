"""`python -m minivllm.course COMMAND ...`: finds the command's module and runs it, and nothing else is loaded."""

from __future__ import annotations

import importlib
import sys

from minivllm.course.catalogue import CourseError
from minivllm.course.exit_codes import ENVIRONMENT, GREEN

# name -> (module:function, what it does). The function takes the arguments after the name and returns the exit code.
COMMANDS = {
    "doctor": ("minivllm.course.doctor:main", "is everything there that the course needs?"),
    "status": ("minivllm.course.progress:status", "where you are [--json]"),
    "next": ("minivllm.course.progress:next_exercise", "the exercise to do now"),
    "check": (
        "minivllm.course.check:check",
        "grade a chapter or an exercise: check 5, check 5.3 [-v | --json]",
    ),
    "hint": ("minivllm.course.help:hint", "the next of three hints: hint 5.3"),
    "solution": ("minivllm.course.help:solution", "the solution: solution 5.3"),
    "diff": ("minivllm.course.help:diff", "your file against the solution: diff 5.3"),
    "reset": ("minivllm.course.help:reset", "begin again; your file is kept as .bak: reset 5.3"),
    "trace": (
        "minivllm.course.trace:main",
        "serve a chapter's trace with your parts: trace 5 [--shadow PARTS]",
    ),
    "watch": ("minivllm.course.check:watch", "grade an exercise again whenever you save its file: watch 5.3"),
    "report": ("minivllm.course.progress:report", "your progress as a Markdown table"),
    "generate": ("minivllm.course.generate:main", "authors: write exercises/ and solutions/ [--check]"),
    "notebooks": (
        "minivllm.course.notebooks:main",
        "authors: notebooks/ [--execute | --check | --lint] [05]",
    ),
    "prove": ("minivllm.course.prove:main", "authors: prove the graders [5 8] [-v]"),
}


def usage() -> str:
    """The list of commands."""
    lines = [f"  {name:<10} {text}" for name, (_, text) in COMMANDS.items()]
    codes = "Exit codes: 0 green, 1 red, 2 not started, 3 the environment is not right."
    return "\n".join(["Usage: python -m minivllm.course COMMAND ...", "", *lines, "", codes])


def main(arguments: list[str]) -> int:
    """Run one command; a sentence and exit code 3 for what is not the learner's code's fault."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return GREEN
    name, *rest = arguments
    if name not in COMMANDS:
        print(f"There is no command {name!r}.\n\n{usage()}", file=sys.stderr)
        return ENVIRONMENT
    module, function = COMMANDS[name][0].split(":")
    try:
        code: int = getattr(importlib.import_module(module), function)(rest)
    except CourseError as error:
        print(error, file=sys.stderr)
        return ENVIRONMENT
    except KeyboardInterrupt:
        return 130
    return code
