"""The memory simulator as a picture that is scrubbed in time: several policies on one trace, step by step."""

from __future__ import annotations

from collections.abc import Sequence

from minivllm.sim.memory import Frame, MemorySimulator
from minivllm.sim.policies import make_policy
from minivllm.sim.trace import Trace
from minivllm.sim.usage import Usage
from minivllm.viz.memory import Bar, Segment, draw_memory
from minivllm.viz.stepper import Frame as Picture
from minivllm.viz.stepper import Stepper


def memory_stepper(
    trace: Trace,
    policies: Sequence[str],
    capacity: int,
    *,
    block_size: int = 16,
    max_model_len: int = 2048,
    step_time: float = 0.05,
    max_frames: int = 24,
    title: str = "One trace, several policies",
    start: int = 0,
) -> Stepper:
    """Play `trace` against each policy; the memory of one that is done early is drawn empty.

    Raises:
        ValueError: an unknown policy, a number out of range, or a request that a policy could never hold.
    """
    runs = {}
    for name in policies:
        policy = make_policy(name, capacity, block_size=block_size, max_model_len=max_model_len)
        simulator = MemorySimulator(
            trace, policy, step_time=step_time, events=("step",), keep_layout=lambda *_: True
        )
        runs[name] = {frame.step: frame for frame in simulator.frames()}
    num_steps = 1 + max(max(frames) for frames in runs.values())
    stride = -(-num_steps // max_frames)
    pictures = []
    for step in range(0, num_steps, stride):
        empty = Frame(step, "step", None, Usage(0, 0, 0, 0, capacity), 0, 0, ())
        moments = {name: frames.get(step, empty) for name, frames in runs.items()}
        bars = {name: _bar(frame, capacity) for name, frame in moments.items()}
        running = ", ".join(f"{name} {frame.num_running}" for name, frame in moments.items())
        pictures.append(Picture(draw_memory(bars, capacity), f"Step {step}. Requests that run: {running}."))
    return Stepper(pictures, title, start)


def _bar(frame: Frame, capacity: int) -> Bar:
    """The layout of a frame as segments; what lies between pieces is free, or free in useless pieces."""
    empty = "external" if frame.usage.external else "free"
    segments, end = [], 0
    for piece in sorted(frame.layout or (), key=lambda piece: piece.start):
        segments.append(Segment(end, piece.start - end, empty))
        first = piece.start
        for state, size in (("used", piece.used), ("reserved", piece.reserved), ("internal", piece.internal)):
            segments.append(Segment(first, size, state))
            first += size
        end = piece.start + piece.size
    segments.append(Segment(end, capacity - end, empty))
    note = f"{frame.num_running} run, {frame.num_waiting} wait"
    return Bar([segment for segment in segments if segment.size > 0], note)
