"""`python -m minivllm.serve.trace 05`: a chapter's trace through the real engine, with your parts and without.

The tokens have to be the same, whoever's parts served them. A run in which they were is kept (`course/runs.py`): it
completes the chapter.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from minivllm.core.step_checks import BrokenLawError
from minivllm.course import learner
from minivllm.course.catalogue import Course, CourseError, read_course
from minivllm.course.exit_codes import ENVIRONMENT, GREEN, NOT_STARTED, RED
from minivllm.course.lockstep import DifferenceError
from minivllm.course.runs import record_run
from minivllm.course.shadow_function import FunctionDifferenceError
from minivllm.course.traces import TRACES, Trace
from minivllm.outputs import EngineStats
from minivllm.parts import REFERENCE, Parts
from minivllm.serve.learner_parts import learner_parts

ATTENTION_CHAPTER = 6


@dataclass(frozen=True)
class Result:
    """What came out of a trace."""

    output_hash: str  # of all output tokens
    num_tokens: int
    num_preemptions: int
    num_cached_tokens: int

    def __str__(self) -> str:
        return (
            f"{self.output_hash[:16]}  {self.num_tokens} tokens, {self.num_preemptions} preemptions, "
            f"{self.num_cached_tokens} prompt tokens from the prefix cache"
        )


def run_trace(trace: Trace, parts: Parts) -> Result:
    """Serve a trace with the model that ships.

    Raises:
        BrokenLawError, DifferenceError, FunctionDifferenceError: a part went wrong; whatever else it raises, too.
    """
    if trace.is_served:
        from minivllm.serve.served_trace import serve_trace

        return _result(*serve_trace(trace, parts))
    from minivllm.llm import LLM  # torch: only once there is something to run
    from minivllm.sampling_params import SamplingParams

    llm = LLM("tutor", parts=parts, **trace.engine)
    tokens: list[list[int]] = []
    for requests in trace.rounds:
        prompts = [p if isinstance(p, str) else {"prompt_token_ids": p} for p, _ in requests]
        params = [SamplingParams(**fields) for _, fields in requests]
        outputs = llm.generate(prompts, params, use_tqdm=False)
        tokens += [choice.token_ids for output in outputs for choice in output.outputs]
    return _result(tokens, llm.llm_engine.stats())


def _result(tokens: list[list[int]], stats: EngineStats) -> Result:
    digest = sha256(repr(tokens).encode()).hexdigest()
    return Result(digest, sum(map(len, tokens)), stats.num_preemptions, stats.prefix_cache_hits)


def compared_with(parts: Parts, chapter: int) -> Parts:
    """The reference, as the chapter's trace needs it.

    Attention adds the same numbers in an order of its own. That may flip a sampled token, and then all after it. So
    both runs attend alike, except in the chapter about attention, whose trace is greedy.
    """
    return REFERENCE if chapter == ATTENTION_CHAPTER else Parts(paged_attention=parts.paged_attention)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; see the module. Exit codes: 0 the same tokens, 1 not, 2 nothing of yours to run, 3 no course."""
    parser = argparse.ArgumentParser(prog="python -m minivllm.course trace", description=__doc__)
    parser.add_argument("chapter", type=int, choices=sorted(TRACES), help="whose trace")
    parser.add_argument("--mine", default="", metavar="PARTS", help="default: all that pass their smoke tier")
    parser.add_argument("--shadow", metavar="PARTS", help="run these beside the reference, step by step")
    arguments = parser.parse_args(argv)
    try:
        course = read_course()
        parts = learner_parts(arguments.mine, arguments.shadow)
    except CourseError as error:
        print(error, file=sys.stderr)
        return ENVIRONMENT
    except ValueError as error:
        print(error, file=sys.stderr)
        return NOT_STARTED
    if not parts.replaced:
        print("Nothing of yours to run yet.")
        return NOT_STARTED
    trace = TRACES[arguments.chapter]
    print(
        f"Trace of chapter {arguments.chapter:02d}: {trace.num_requests} requests, served twice ...",
        flush=True,
    )
    try:
        reference = run_trace(trace, compared_with(parts, arguments.chapter))
        mine = run_trace(trace, parts)
    except (BrokenLawError, DifferenceError, FunctionDifferenceError) as error:
        if isinstance(error, BrokenLawError):
            print(f"A law is broken: {error}.\nWhere it begins: add --shadow with the name of the part.")
        return RED
    print(f"  yours      {mine}\n  reference  {reference}")
    if mine.output_hash != reference.output_hash:
        record_run(course, arguments.chapter, parts, mine.output_hash, is_equal=False)
        print("The tokens differ. Where it begins: add --shadow with the name of the part.")
        return RED
    if arguments.shadow:  # the reference decided: such a run completes nothing
        print("The same tokens, and no decision in which they differ.")
        return GREEN
    missing = missing_parts(course, arguments.chapter, parts)
    if missing:
        told = f"not yours yet in chapter {arguments.chapter:02d}: {', '.join(missing)}"
        print(f"The same tokens. The run does not complete the chapter; {told}.")
        return GREEN
    record_run(course, arguments.chapter, parts, mine.output_hash, is_equal=True)
    print(f"The same tokens. Your parts have served chapter {arguments.chapter:02d}.")
    return GREEN


def missing_parts(course: Course, chapter: int, parts: Parts) -> list[str]:
    """The parts that a chapter's exercises make and that `parts` leaves to the reference."""
    wanted = [
        part.name for part in learner.parts(course) if course.exercise(part.exercise).chapter == chapter
    ]
    return [name for name in dict.fromkeys(wanted) if name not in parts.replaced]


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # as in serve/__main__.py: the end of the process frees everything
