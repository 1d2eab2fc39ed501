"""Writing a conversation out by a model's Jinja template, as transformers does it, without importing transformers.

Only the plain case: messages of role, content and tool calls, made of JSON's types, and a template that needs none of
the rarer helpers. `render` says None to anything else, and the caller asks transformers, which takes seconds to import.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Template

MESSAGE_KEYS = frozenset({"role", "content", "name", "tool_call_id", "tool_calls"})
RARE_HELPERS = re.compile(r"\b(endgeneration|namespace|dict|strftime_now)\b")
CONTINUE_HERE = "CONTINUE_FINAL_MESSAGE_TAG "  # as transformers writes it: a template may trim the space
RESERVED = frozenset(
    {
        "conversations",
        "documents",
        "sanitize_control_tokens",
        "padding",
        "truncation",
        "max_length",
        "return_tensors",
        "return_dict",
        "return_assistant_tokens_mask",
        "tokenizer_kwargs",
    }
)  # arguments of transformers' apply_chat_template that are no variables of the template


def render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None,
    variables: Mapping[str, Any],
    add_generation_prompt: bool = False,
    continue_final_message: bool = False,
) -> str | None:
    """The text of a conversation; None where transformers should be asked.

    Args:
        template: Jinja.
        messages: the conversation.
        tools: JSON schemas that the template may write out.
        variables: what else the template may read.
        add_generation_prompt: end with the head of the assistant's answer.
        continue_final_message: end inside the last message, for the model to write on.

    Raises:
        jinja2.exceptions.TemplateError: the template is malformed, or refuses this conversation.
    """
    is_plain = (
        bool(messages)
        and all(type(message) is dict and MESSAGE_KEYS.issuperset(message) for message in messages)
        and RESERVED.isdisjoint(variables)
        and not RARE_HELPERS.search(template)
        and _is_json([messages, tools, dict(variables)])
    )
    if not is_plain:
        return None
    given = [{key: value for key, value in message.items() if value is not None} for message in messages]
    if continue_final_message:
        return None if add_generation_prompt else _render_open(template, given, tools, variables)
    return _render(template, given, tools, variables, add_generation_prompt)


def _render_open(template: str, messages: list[dict[str, Any]], tools: Any, variables: Any) -> str | None:
    """Everything up to the end of the last message's content; None where that is not to be found."""
    content = messages[-1].get("content")
    if not isinstance(content, str) or "content" not in template:
        return None
    marked = [*messages[:-1], {**messages[-1], "content": content + CONTINUE_HERE}]
    text = _render(template, marked, tools, variables, False)
    if content.strip() not in text or CONTINUE_HERE.strip() not in text:
        return None
    end = text.rindex(CONTINUE_HERE.strip())
    is_trimmed = text[end : end + len(CONTINUE_HERE)] != CONTINUE_HERE
    return text[:end].rstrip() if is_trimmed else text[:end]


def _render(template: str, messages: Any, tools: Any, variables: Any, add_generation_prompt: bool) -> str:
    return _compile(template).render(
        messages=messages,
        tools=tools,
        documents=None,
        add_generation_prompt=add_generation_prompt,
        **variables,
    )


def _is_json(value: Any) -> bool:
    """Of exactly JSON's types: subclasses bring methods along, which a stranger's template could call."""
    if type(value) is dict:
        return all(type(key) is str and _is_json(item) for key, item in value.items())
    if type(value) is list:
        return all(map(_is_json, value))
    return value is None or type(value) in (str, int, float, bool)


@lru_cache(maxsize=32)
def _compile(template: str) -> Template:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    return environment.from_string(template)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter would escape the characters of HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    from jinja2.exceptions import TemplateError

    raise TemplateError(message)
