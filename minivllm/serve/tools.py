"""Tool calls: what the model is made to write when it must call one, and how calls are found in what it wrote.

A named or required call is enforced by a grammar: the answer cannot be anything else. With "auto" the model decides,
and its text is searched for calls in the Hermes form, <tool_call>{"name": ..., "arguments": {...}}</tool_call>. The
text is only ever parsed as JSON, and each character is looked at a bounded number of times.
"""

from __future__ import annotations

import json
import uuid
from typing import Any, Literal

from minivllm.sampling_params import StructuredOutputsParams
from minivllm.serve.protocol import ChatCompletionRequest, NamedToolChoice, Tool
from minivllm.serve.responses import FunctionCall, ToolCallAnswer

OPEN, CLOSE = "<tool_call>", "</tool_call>"
MAX_CALL_CHARS = 100_000
Mode = Literal["none", "auto", "required", "named"]


def mode_of(body: ChatCompletionRequest) -> Mode:
    """What is to happen with the tools of a request."""
    if not body.tools or body.tool_choice == "none":
        return "none"
    if isinstance(body.tool_choice, NamedToolChoice):
        return "named"
    return "required" if body.tool_choice == "required" else "auto"


def form_of_calls(body: ChatCompletionRequest) -> StructuredOutputsParams | None:
    """The grammar of a required or named call; None where the model is free."""
    mode = mode_of(body)
    assert body.tools or mode == "none"
    if mode == "named":
        assert isinstance(body.tool_choice, NamedToolChoice)
        name = body.tool_choice.function.name
        (tool,) = (tool for tool in body.tools or () if tool.function.name == name)
        return StructuredOutputsParams(json=_parameters(tool))
    if mode == "required":
        calls: dict[str, Any] = {
            "type": "array",
            "minItems": 1,
            "maxItems": 1 if body.parallel_tool_calls is False else 8,
            "items": {"anyOf": [_call_schema(tool) for tool in body.tools or ()]},
        }
        return StructuredOutputsParams(json=calls)
    return None


def _call_schema(tool: Tool) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"name": {"const": tool.function.name}, "arguments": _parameters(tool)},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _parameters(tool: Tool) -> dict[str, Any]:
    return tool.function.parameters or {"type": "object", "properties": {}, "additionalProperties": False}


def calls_in_answer(body: ChatCompletionRequest, text: str) -> tuple[str | None, list[ToolCallAnswer]]:
    """(what is left as content, the calls) of a whole answer."""
    mode = mode_of(body)
    if mode == "named":
        assert isinstance(body.tool_choice, NamedToolChoice)
        return None, [new_call(body.tool_choice.function.name, text)]
    if mode == "required":
        return _required_calls(text)
    if mode == "auto":
        finder = ToolCallFinder()
        content, calls = finder.feed(text)
        content += finder.finish()
        return content or None if calls else content, calls
    return text, []


def _required_calls(text: str) -> tuple[str | None, list[ToolCallAnswer]]:
    """An answer that was cut off by max_tokens is no JSON yet: it stays text."""
    try:
        calls = json.loads(text)
    except (ValueError, RecursionError):
        return text, []
    return None, [new_call(call["name"], _as_json(call["arguments"])) for call in calls]


def new_call(name: str, arguments: str) -> ToolCallAnswer:
    """A call under a new id."""
    call_id = f"chatcmpl-tool-{uuid.uuid4().hex}"
    return ToolCallAnswer(id=call_id, function=FunctionCall(name=name, arguments=arguments))


class ToolCallFinder:
    """Finds Hermes calls in growing text. Text outside of calls passes through as soon as it cannot be a mark."""

    def __init__(self) -> None:
        self._rest = ""  # outside of a call: what may be the beginning of a mark
        self._call: list[str] | None = None  # inside of a call: the pieces so far
        self._num_chars = 0
        self._tail = ""  # the end of those pieces, where CLOSE may have begun

    def feed(self, text: str) -> tuple[str, list[ToolCallAnswer]]:
        """(content that can be shown, calls that are complete) after the next piece of text."""
        content: list[str] = []
        calls: list[ToolCallAnswer] = []
        while text:
            text = (
                self._inside(text, content, calls) if self._call is not None else self._outside(text, content)
            )
        return "".join(content), calls

    def finish(self) -> str:
        """The text is over: what waited for more is content."""
        waiting = self._rest if self._call is None else OPEN + "".join(self._call)
        self._rest, self._call = "", None
        return waiting

    def _outside(self, text: str, content: list[str]) -> str:
        """Pass content on up to the next mark; returns what follows the mark."""
        text = self._rest + text
        before, mark, after = text.partition(OPEN)
        if mark:
            self._rest, self._call, self._num_chars, self._tail = "", [], 0, ""
            content.append(before)
            return after
        keep = next((n for n in range(len(OPEN) - 1, 0, -1) if text.endswith(OPEN[:n])), 0)
        self._rest = text[len(text) - keep :]
        content.append(text[: len(text) - keep])
        return ""

    def _inside(self, text: str, content: list[str], calls: list[ToolCallAnswer]) -> str:
        """Collect the call up to its closing mark; returns what follows it."""
        assert self._call is not None
        window = self._tail + text
        end = window.find(CLOSE)
        if end < 0:
            self._call.append(text)
            self._num_chars += len(text)
            self._tail = window[1 - len(CLOSE) :]
            if self._num_chars > MAX_CALL_CHARS:  # no call is so long
                content.append(self.finish())
            return ""
        whole = ("".join(self._call) + text)[: self._num_chars - len(self._tail) + end]
        self._call = None
        call = _parse_call(whole)
        if call is None:
            content.append(OPEN + whole + CLOSE)
        else:
            calls.append(call)
        return window[end + len(CLOSE) :]


def _parse_call(text: str) -> ToolCallAnswer | None:
    """None if the text is no call."""
    try:
        call = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str) or not call["name"].isprintable():
        return None
    arguments = call.get("arguments", {})
    if not isinstance(arguments, dict):
        return None
    return new_call(call["name"], _as_json(arguments))


def _as_json(arguments: Any) -> str:
    """Characters stay as they are, unless the model wrote half of one: only an escape can carry that."""
    text = json.dumps(arguments, ensure_ascii=False)
    return text if text.isascii() or _is_sendable(text) else json.dumps(arguments)


def _is_sendable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
