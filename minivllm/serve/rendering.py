"""Renderer: text and conversations to token ids and back, in one worker thread with a tokenizer of its own.

The event loop stays free while a long text is tokenized, and the engine thread's tokenizer is never touched.
"""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from jinja2.exceptions import TemplateError, TemplateSyntaxError

from minivllm.serve.protocol import ChatFields, ChatMessage, ToolCall

T = TypeVar("T")
RENDER_ERRORS = (TemplateError, TypeError, ValueError, LookupError, ArithmeticError)
MAX_CHARS = 2**18  # takes a third of a second; of text that need not fit the context


class Renderer:
    """Tokenizes for one model whose context holds `max_model_len` tokens.

    Every method raises ValueError, with a sentence for the user, when its input cannot be rendered.
    """

    def __init__(self, tokenizer: Any | None, max_model_len: int, chat_template: str | None = None) -> None:
        self._tokenizer = copy.deepcopy(tokenizer)
        self._template = _template(tokenizer, chat_template)  # the server's, never a request's
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="minivllm-tokenizer")
        longest_token = max(map(len, tokenizer.get_vocab())) if tokenizer is not None else 0
        self._fitting_chars = max_model_len * longest_token
        self._max_model_len = max_model_len

    def close(self) -> None:
        """End the worker thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def encode(
        self, texts: Sequence[str], add_special_tokens: bool, *, must_fit: bool = True
    ) -> list[list[int]]:
        """Token ids of each text; with `must_fit` a text that cannot fit the context is not even tokenized."""
        tokenizer = self._need_tokenizer()
        for text in texts:
            self._check_chars(len(text), must_fit)
        # one job for each: those of other requests come in between, and a cancelled request has no more of them
        return [
            await self._run(partial(tokenizer.encode, text, add_special_tokens=add_special_tokens))
            for text in texts
        ]

    async def encode_chat(self, chat: ChatFields, *, must_fit: bool = True) -> list[int]:
        """Token ids of a conversation, written out by the model's own chat template."""
        tokenizer = self._need_tokenizer()
        if not self._template:
            raise ValueError("messages need a chat template, and this model has none: use /v1/completions")
        self.check_tools(chat)
        self._check_chars(sum(len(message.content or "") for message in chat.messages), must_fit)
        return await self._run(lambda: _encode_chat(tokenizer, self._template, chat))

    def check_tools(self, chat: ChatFields) -> None:
        """A template that does not know tools would leave them out, and the model would not know of them."""
        if "tools" in (self._template or ""):
            return
        if chat.tools:
            raise ValueError("tools are not served: the model's chat template does not know them")
        if any(message.role == "tool" or message.tool_calls for message in chat.messages):
            raise ValueError("messages hold tool calls, which the model's chat template does not know")

    async def decode(self, token_ids: Sequence[int]) -> str:
        """The text of `token_ids`, special tokens included."""
        tokenizer = self._need_tokenizer()
        return await self._run(lambda: tokenizer.decode(token_ids, skip_special_tokens=False))

    async def token_strings(self, token_ids: Sequence[int]) -> list[str]:
        """Each token as the vocabulary spells it."""
        tokenizer = self._need_tokenizer()
        return await self._run(lambda: tokenizer.convert_ids_to_tokens(token_ids))

    def _need_tokenizer(self) -> Any:
        if self._tokenizer is None:
            raise ValueError("prompt must be token ids: this model has no tokenizer")
        return self._tokenizer

    def _check_chars(self, num_chars: int, must_fit: bool) -> None:
        if must_fit and num_chars > self._fitting_chars:
            raise ValueError(
                f"prompt has {num_chars} characters, which cannot fit into the context of "
                f"{self._max_model_len} tokens: shorten it"
            )
        limit = max(self._fitting_chars, MAX_CHARS)
        if num_chars > limit:
            raise ValueError(f"prompt has {num_chars} characters; at most {limit} are tokenized")

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _template(tokenizer: Any | None, given: str | None) -> str | None:
    """`given`, else the model's own; of several with names, the one called default.

    Raises:
        ValueError: it is no Jinja, which is told at the start and not to the first conversation.
    """
    template = given or getattr(tokenizer, "chat_template", None)
    if isinstance(template, Mapping):
        template = template.get("default")
    if tokenizer is None or template is None:
        return None
    if not isinstance(template, str):
        raise ValueError("the model's chat template is no text: give another with --chat-template")
    try:
        tokenizer.apply_chat_template(
            [{"role": "user", "content": "Hello"}], chat_template=template, tokenize=False
        )
    except TemplateSyntaxError as error:
        raise ValueError(
            f"the chat template is no valid Jinja, in line {error.lineno}: {error.message}. Give another with "
            "--chat-template"
        ) from error
    except RENDER_ERRORS:  # it wants another conversation than this one
        pass
    return template


def _encode_chat(tokenizer: Any, template: str | None, chat: ChatFields) -> list[int]:
    try:
        text = tokenizer.apply_chat_template(
            [_as_dict(message) for message in chat.messages],
            tools=[tool.model_dump(exclude_none=True) for tool in chat.tools or ()] or None,
            chat_template=template,
            tokenize=False,
            add_generation_prompt=chat.add_generation_prompt,
            continue_final_message=chat.continue_final_message,
            **(chat.chat_template_kwargs or {}),
        )
    except RENDER_ERRORS as error:
        raise ValueError(f"messages do not suit the model's chat template: {error}") from error
    return tokenizer.encode(text, add_special_tokens=chat.add_special_tokens)


def _as_dict(message: ChatMessage) -> dict[str, Any]:
    """A message as templates read it: arguments of calls as objects, content always a text."""
    role = (
        "system" if message.role == "developer" else message.role
    )  # OpenAI's newer name; templates know the older
    made: dict[str, Any] = {"role": role, "content": message.content or ""}
    for name in ("name", "tool_call_id"):
        if getattr(message, name) is not None:
            made[name] = getattr(message, name)
    if message.tool_calls:
        made["tool_calls"] = [_call_as_dict(call) for call in message.tool_calls]
    return made


def _call_as_dict(call: ToolCall) -> dict[str, Any]:
    try:
        arguments = json.loads(call.function.arguments or "{}")
    except (ValueError, RecursionError):
        raise ValueError("tool_calls hold arguments that are not valid JSON") from None
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.function.name, "arguments": arguments},
    }
