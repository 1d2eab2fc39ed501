"""Making a history smaller while it still shows the same difference, so that a person can follow it."""

from __future__ import annotations

import string
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from minivllm.course.history import Event, History
from minivllm.parts import Parts

Change = Callable[[History], History]
SECONDS = 3.0  # a person waits; what is small enough by then is shown


def shrink(history: History, mine: Parts) -> History:
    """Fewer requests, fewer blocks, shorter prompts and answers, and request names a, b, c, ..."""
    end = time.monotonic() + SECONDS
    kind = _kind(history, mine)
    if kind is None:
        return history  # it does not happen again: leave the record as it is
    history = _first(history, [_cut_after_difference(mine), _renamed], kind, mine)
    is_smaller = True
    while is_smaller and time.monotonic() < end:
        is_smaller = False
        for change in _changes(history):
            candidate = change(history)
            if candidate != history and _kind(candidate, mine) == kind:
                history, is_smaller = candidate, True
            if time.monotonic() > end:
                break
    return _first(history, [_cut_after_difference(mine), _renamed], kind, mine)


def _first(history: History, changes: list[Change], kind: str, mine: Parts) -> History:
    """Make each of `changes` that keeps the difference."""
    for change in changes:
        candidate = change(history)
        history = candidate if _kind(candidate, mine) == kind else history
    return history


def _kind(history: History, mine: Parts) -> str | None:
    try:
        difference = history.replay(mine)
    except ValueError:  # a request no longer fits into so few blocks
        return None
    return difference.kind if difference is not None else None


def _changes(history: History) -> Iterator[Change]:
    """What to try, the largest savings first."""
    names = [one["request_id"] for event in history.events if event[0] == "add" for one in event[1]]
    for name in reversed(names):
        yield lambda h, n=name: _without(h, n)  # type: ignore[misc]
    yield lambda h: replace(h, outputs={})
    yield lambda h: _map_fields(h, lambda one: {k: v for k, v in one.items() if k != "stop_token_ids"})
    yield lambda h: _with_blocks(h, h.sizes.num_blocks // 4)
    yield lambda h: _with_blocks(h, h.sizes.num_blocks // 2)
    for key in ("prompt_token_ids", "max_tokens"):
        for name in names:
            yield lambda h, n=name, k=key: _shorter(h, n, k, 0.5)  # type: ignore[misc]
            yield lambda h, n=name, k=key: _shorter(h, n, k, 0.9)  # type: ignore[misc]
    yield lambda h: _with_blocks(h, h.sizes.num_blocks - 1)


def _without(history: History, name: str) -> History:
    """The history without a request; a sibling that was to fork from it begins on its own."""
    events: list[Event] = []
    for event in history.events:
        if event[0] == "add":
            event = (
                "add",
                [
                    {k: v for k, v in one.items() if (k, v) != ("fork_from", name)}
                    for one in event[1]
                    if one["request_id"] != name
                ],
            )
        elif event[0] == "finish":
            event = "finish", [one for one in event[1] if one != name], event[2]
        elif event[0] == "draft":
            event = "draft", {one: tokens for one, tokens in event[1].items() if one != name}
        if event[0] == "steps" or event[1]:
            events.append(event)
    return replace(history, events=events, outputs={k: v for k, v in history.outputs.items() if k != name})


def _with_blocks(history: History, num_blocks: int) -> History:
    return replace(history, sizes=replace(history.sizes, num_blocks=max(2, num_blocks)))


def _shorter(history: History, name: str, key: str, keep: float) -> History:
    """Less under `key`, for a request and for its siblings (the choices of n > 1 share their prompt)."""

    def change(fields: dict[str, Any]) -> dict[str, Any]:
        value = fields[key]
        if name not in (fields["request_id"], fields.get("fork_from")):
            return fields
        if key == "max_tokens":
            return fields | {key: max(1, int(value * keep))}
        return fields | {key: value[: max(1, int(len(value) * keep))]}

    return _map_fields(history, change)


def _map_fields(history: History, change: Callable[[dict[str, Any]], dict[str, Any]]) -> History:
    events = [("add", [change(one) for one in e[1]]) if e[0] == "add" else e for e in history.events]
    return replace(history, events=events)


def _renamed(history: History) -> History:
    """Short names in the order of arrival."""
    old = list(dict.fromkeys(name for event in history.events for name in _names_in(event)))
    letters = string.ascii_lowercase
    new = {n: letters[i] if i < len(letters) else f"r{i}" for i, n in enumerate(old)}

    def fields(one: dict[str, Any]) -> dict[str, Any]:
        return {k: new[v] if k in ("request_id", "fork_from") else v for k, v in one.items()}

    events: list[Event] = []
    for event in history.events:
        match event:
            case ("add", group):
                events.append(("add", [fields(one) for one in group]))
            case ("finish", names, status):
                events.append(("finish", [new[name] for name in names], status))
            case ("fork", parent, child):
                events.append(("fork", new[parent], fields(child)))
            case ("append", name, token_id):
                events.append(("append", new[name], token_id))
            case ("draft", drafts):
                events.append(("draft", {new[name]: tokens for name, tokens in drafts.items()}))
            case _:
                events.append(event)
    outputs = {new[name]: tokens for name, tokens in history.outputs.items() if name in new}
    return replace(history, events=events, outputs=outputs)


def _names_in(event: Event) -> list[str]:
    match event:
        case ("add", group):
            return [one["request_id"] for one in group]
        case ("finish", names, _):
            return list(names)
        case ("fork", parent, child):
            return [parent, child["request_id"]]
        case ("append", name, _):
            return [name]
        case ("draft", drafts):
            return list(drafts)
    return []


def _cut_after_difference(mine: Parts) -> Change:
    """Leave out what comes after the first difference, and answers that nobody reads."""

    def cut(history: History) -> History:
        difference = history.replay(mine)
        events: list[Event] = []
        num_steps = 0
        for event in history.events:
            if difference is not None and event[0] == "steps" and num_steps + event[1] >= difference.step:
                events.append(("steps", difference.step - num_steps))
                break
            num_steps += event[1] if event[0] == "steps" else 0
            events.append(event)
        most = num_steps + (difference.step if difference is not None else 0)
        outputs = {name: tokens[:most] for name, tokens in history.outputs.items()}
        return replace(history, events=events, outputs=outputs)

    return cut
