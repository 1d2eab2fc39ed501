"""What requests and responses look like: OpenAI's fields, vLLM's additions, as pydantic models.

Types are strict: "0.7" and true are no numbers, NaN and Infinity are refused, unknown fields are ignored as
OpenAI and vLLM do. Ranges are the business of SamplingParams. A field that is known but not served is
refused with a sentence, because ignoring it would give an answer that only looks right.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

MAX_PROMPTS = 1024
MAX_STOP_STRINGS = 4
MAX_STRING_CHARS = 1024  # of a stop string or a bad word
MAX_BAD_WORDS = 128
MAX_LOGIT_BIAS = 1024
MAX_STOP_TOKEN_IDS = 1024
MAX_MESSAGES = 4096

NOT_SERVED = {
    "audio": "this server reads and writes text only",
    "chat_template": "templates come from the model, never from a request",
    "chat_template_kwargs": "the chat template takes no arguments from a request",
    "documents": "put the text into a message",
    "function_call": "this server does not call functions",
    "functions": "this server does not call functions",
    "kv_transfer_params": "there is one engine and nothing to transfer",
    "media_io_kwargs": "this server reads and writes text only",
    "mm_processor_kwargs": "this server reads and writes text only",
    "prompt_embeds": "send text or token ids",
    "prompt_logprobs": "leave it out",
    "repetition_detection": "use stop strings or max_tokens",
    "response_format": "only {'type': 'text'} is",
    "return_token_ids": "leave it out",
    "return_tokens_as_token_ids": "leave it out",
    "structured_outputs": "the answer cannot be constrained",
    "suffix": "the model only continues a text",
    "tool_choice": "this server does not call functions",
    "tools": "this server does not call functions",
    "use_beam_search": "leave it out to sample",
}
_HARMLESS = {"response_format": {"type": "text"}, "tool_choice": "none"}


class Strict(BaseModel):
    """A request model: strict types, finite numbers, unknown fields ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, protected_namespaces=())


def check_prompt(prompt: Any) -> Any:
    """A string, token ids, or up to MAX_PROMPTS of either, and nothing empty; else ValueError."""
    if isinstance(prompt, str):
        prompt = [prompt]
    if not isinstance(prompt, list) or not prompt:
        raise ValueError("prompt must be a non-empty string, a list of token ids, or a list of either")
    if _is_token_ids(prompt):
        return [prompt]
    if len(prompt) > MAX_PROMPTS:
        raise ValueError(
            f"prompt holds {len(prompt)} prompts; at most {MAX_PROMPTS} are served in one request"
        )
    if not (all(isinstance(p, str) for p in prompt) or all(_is_token_ids(p) for p in prompt)):
        raise ValueError("prompt must hold only strings, or only lists of token ids (integers of at least 0)")
    if not all(prompt):
        raise ValueError("prompt must not be empty, nor hold an empty prompt")
    return prompt


def _is_token_ids(value: Any) -> bool:
    return isinstance(value, list) and all(type(i) is int and i >= 0 for i in value)


def check_stop(stop: Any) -> Any:
    """One string or up to MAX_STOP_STRINGS of them, as a list."""
    stop = [stop] if isinstance(stop, str) else stop
    if stop is None:
        return None
    if not isinstance(stop, list) or not all(isinstance(text, str) and text for text in stop):
        raise ValueError("stop must be a non-empty string or a list of non-empty strings")
    if len(stop) > MAX_STOP_STRINGS:
        raise ValueError(f"stop holds {len(stop)} strings; at most {MAX_STOP_STRINGS} are served")
    if max(map(len, stop), default=0) > MAX_STRING_CHARS:
        raise ValueError(f"stop holds a string of more than {MAX_STRING_CHARS} characters")
    return stop


def check_logit_bias(bias: Any) -> Any:
    """JSON has only string keys: token ids as strings become integers; the values are checked by pydantic."""
    if not isinstance(bias, dict):
        return bias
    if len(bias) > MAX_LOGIT_BIAS:
        raise ValueError(f"logit_bias holds {len(bias)} entries; at most {MAX_LOGIT_BIAS} are served")
    if not all(isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 10 for key in bias):
        raise ValueError("logit_bias must map token ids, written as strings of digits, to numbers")
    return {int(key): value for key, value in bias.items()}


def check_cache_salt(salt: Any) -> Any:
    """1..128 characters without @, / , backslash and NUL."""
    if salt is None:
        return None
    if not isinstance(salt, str) or not 1 <= len(salt) <= 128 or set(salt) & set("@/\\\0"):
        raise ValueError("cache_salt must be a string of 1 to 128 characters without @, /, \\ and NUL")
    return salt


def check_content(content: Any) -> Any:
    """A string, or text parts, which are joined by newlines."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise ValueError(
            "content must be a string or a list of parts such as {'type': 'text', 'text': '...'}"
        )
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(kind, str):
            raise ValueError("content must hold parts such as {'type': 'text', 'text': '...'}")
        if kind != "text":
            raise ValueError(f"content holds a part of type {kind[:40]!r}; this server reads text only")
        if not isinstance(part.get("text"), str):
            raise ValueError("content holds a text part whose 'text' is not a string")
        texts.append(part["text"])
    return "\n".join(texts)


Int64 = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
ShortString = Annotated[str, Field(max_length=MAX_STRING_CHARS)]
TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=MAX_STOP_TOKEN_IDS)]


class StreamOptions(Strict):
    """What a stream carries besides the text."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


class SamplingFields(Strict):
    """The fields that completions and chat have in common. None = the server's default."""

    model: str | None = None
    n: int | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: Int64 | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: Annotated[dict[int, float] | None, BeforeValidator(check_logit_bias)] = None
    stop: Annotated[list[str] | None, BeforeValidator(check_stop)] = None
    stop_token_ids: TokenIds | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    allowed_token_ids: list[int] | None = None
    bad_words: Annotated[list[ShortString], Field(max_length=MAX_BAD_WORDS)] | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=-1, le=2**31)] | None = None
    truncation_side: Literal["left", "right"] = "left"
    priority: Annotated[int, Field(ge=-(2**31), le=2**31 - 1)] = 0
    cache_salt: Annotated[str | None, BeforeValidator(check_cache_salt)] = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_is_not_served(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for name, why in NOT_SERVED.items():
                value = data.get(name)
                if value and value != _HARMLESS.get(name):
                    raise ValueError(f"{name} is not served: {why}")
        return data

    @model_validator(mode="after")
    def _check_stream_options(self) -> SamplingFields:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is for streams: set stream to true, or leave it out")
        return self

    @property
    def include_usage(self) -> bool:
        """The stream ends with a chunk that holds the usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def usage_in_every_chunk(self) -> bool:
        """Each chunk of the stream holds the usage so far."""
        return self.include_usage and bool(self.stream_options and self.stream_options.continuous_usage_stats)


class CompletionRequest(SamplingFields):
    """POST /v1/completions. `prompt` is a list of prompts after validation."""

    prompt: Annotated[list[str] | list[list[int]], BeforeValidator(check_prompt)]
    echo: bool | None = False
    logprobs: int | None = None
    add_special_tokens: bool = True


class ChatMessage(Strict):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(check_content)]

    @model_validator(mode="before")
    @classmethod
    def _refuse_tools(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and (data.get("tool_calls") or data.get("role") in ("tool", "function")):
            raise ValueError("messages must not hold tool calls: this server does not call functions")
        return data


class ChatFields(Strict):
    """What turns a conversation into a prompt."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool = False  # the template writes them itself

    @model_validator(mode="after")
    def _check_ending(self) -> ChatFields:
        if self.continue_final_message and self.add_generation_prompt:
            raise ValueError(
                "continue_final_message needs add_generation_prompt set to false: an answer cannot do both"
            )
        return self


class ChatCompletionRequest(ChatFields, SamplingFields):
    """POST /v1/chat/completions."""

    max_completion_tokens: int | None = None
    logprobs: bool | None = False
    top_logprobs: int | None = None

    @model_validator(mode="after")
    def _check_top_logprobs(self) -> ChatCompletionRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs set to true")
        return self


class TokenizeTextRequest(Strict):
    """POST /tokenize with a text."""

    model: str | None = None
    prompt: str
    add_special_tokens: bool = True
    return_token_strs: bool | None = False


class TokenizeChatRequest(ChatFields):
    """POST /tokenize with a conversation."""

    model: str | None = None
    return_token_strs: bool | None = False


class DetokenizeRequest(Strict):
    """POST /detokenize."""

    model: str | None = None
    tokens: list[Annotated[int, Field(ge=0)]]


# ---- responses ----


class PromptTokensDetails(BaseModel):
    """How many prompt tokens came from the prefix cache."""

    cached_tokens: int = 0


class Usage(BaseModel):
    """Tokens read and written."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    prompt_tokens_details: PromptTokensDetails | None = None


class CompletionLogprobs(BaseModel):
    """Log-probabilities as columns; an entry is null where nothing precedes the token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """One continuation, or what is new of it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


class CompletionResponse(BaseModel):
    """The answer of /v1/completions; a stream's chunks look the same."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class AssistantMessage(BaseModel):
    """What the model said."""

    role: Literal["assistant"] = "assistant"
    content: str


class TopLogprob(BaseModel):
    """A token that might have stood here."""

    token: str
    logprob: float
    bytes: list[int]


class ChatLogprob(TopLogprob):
    """The token that stands here, and the most likely ones."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """Log-probabilities as rows."""

    content: list[ChatLogprob]


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


class ChatCompletionResponse(BaseModel):
    """The answer of /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class Delta(BaseModel):
    """What is new in a streamed answer."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChatChunkChoice(BaseModel):
    """What is new in one streamed choice."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


class ChatCompletionChunk(BaseModel):
    """One event of a streamed chat answer."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None


class ModelCard(BaseModel):
    """A model in the list of /v1/models."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(default_factory=lambda: int(time.time()))
    owned_by: str = "minivllm"
    root: str
    parent: str | None = None
    max_model_len: int
    permission: list[Any] = Field(default_factory=list)


class ModelList(BaseModel):
    """GET /v1/models."""

    object: Literal["list"] = "list"
    data: list[ModelCard]
