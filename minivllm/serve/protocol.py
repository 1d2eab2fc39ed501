"""What requests look like: OpenAI's fields, vLLM's additions, as pydantic models.

Types are strict: "0.7" and true are no numbers, NaN and Infinity are refused, unknown fields are ignored as
OpenAI and vLLM do. Ranges are the business of SamplingParams. A field that is known but not served is
refused with a sentence, because ignoring it would give an answer that only looks right.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from minivllm.serve.fields import (
    MAX_BAD_WORDS,
    CacheSalt,
    Content,
    Input,
    Int64,
    LogitBias,
    Prompt,
    RequestId,
    ShortString,
    Stop,
    TemplateKwargs,
    TokenIds,
)

logger = logging.getLogger(__name__)
MAX_MESSAGES = 4096
MAX_TOOLS = 128
MAX_TOKEN_IDS = 2**20  # of /detokenize

NOT_SERVED = {
    "audio": "this server reads and writes text only",
    "chat_template": "templates come from the model, never from a request",
    "documents": "put the text into a message",
    "function_call": "use tool_choice",
    "functions": "use tools",
    "kv_transfer_params": "there is one engine and nothing to transfer",
    "media_io_kwargs": "this server reads and writes text only",
    "mm_processor_kwargs": "this server reads and writes text only",
    "prompt_embeds": "send text or token ids",
    "repetition_detection": "use stop strings or max_tokens",
    "suffix": "the model only continues a text",
}
_OLD_NAMES = {f"guided_{kind}": kind for kind in ("json", "regex", "choice", "grammar")}


class Strict(BaseModel):
    """A request model: strict types, finite numbers, unknown fields ignored."""

    model_config = ConfigDict(
        strict=True, extra="ignore", allow_inf_nan=False, protected_namespaces=(), populate_by_name=True
    )


class StreamOptions(Strict):
    """What a stream carries besides the text."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


class JsonSchemaFormat(Strict):
    """A schema by OpenAI's name for it."""

    name: str | None = None
    json_schema: dict[str, Any] = Field(alias="schema")


class ResponseFormat(Strict):
    """The form of the answer, in OpenAI's words."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None

    @model_validator(mode="after")
    def _check_schema(self) -> ResponseFormat:
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError("response_format of type json_schema needs json_schema with a schema in it")
        return self


class StructuredOutputs(Strict):
    """The form of the answer, in vLLM's words: exactly one field."""

    json_schema: str | dict[str, Any] | None = Field(None, alias="json")
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_tags(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and data.get("structural_tag") is not None:
            raise ValueError("structural_tag is not served: use json, regex, choice or grammar")
        return data


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
    logit_bias: LogitBias = None
    stop: Stop = None
    stop_token_ids: TokenIds | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    allowed_token_ids: list[int] | None = None
    bad_words: Annotated[list[ShortString], Field(max_length=MAX_BAD_WORDS)] | None = None
    prompt_logprobs: int | None = None
    use_beam_search: bool | None = False
    length_penalty: float | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=-1, le=2**31)] | None = None
    truncation_side: Literal["left", "right"] = "left"
    priority: Annotated[int, Field(ge=-(2**31), le=2**31 - 1)] = 0
    cache_salt: CacheSalt = None
    request_id: RequestId = None
    return_token_ids: bool | None = False
    return_tokens_as_token_ids: bool | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_is_not_served(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        for name, why in NOT_SERVED.items():
            if data.get(name):
                raise ValueError(f"{name} is not served: {why}")
        return _with_new_names(data)

    @model_validator(mode="after")
    def _check_stream_options(self) -> SamplingFields:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is for streams: set stream to true, or leave it out")
        if self.stream and self.prompt_logprobs is not None:
            raise ValueError("prompt_logprobs are not served in a stream: set stream to false")
        return self

    @property
    def include_usage(self) -> bool:
        """The stream ends with a chunk that holds the usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def usage_in_every_chunk(self) -> bool:
        """Each chunk of the stream holds the usage so far."""
        return self.include_usage and bool(self.stream_options and self.stream_options.continuous_usage_stats)


def _with_new_names(data: dict[str, Any]) -> dict[str, Any]:
    """guided_json and the like, as older clients send them, become structured_outputs."""
    old = {new: data[name] for name, new in _OLD_NAMES.items() if data.get(name) is not None}
    if not old:
        return data
    logger.warning("guided_%s is an old name: use structured_outputs", next(iter(old)))
    given = data.get("structured_outputs")
    return {**data, "structured_outputs": {**(given if isinstance(given, dict) else {}), **old}}


class CompletionRequest(SamplingFields):
    """POST /v1/completions. `prompt` is a list of prompts after validation."""

    prompt: Prompt
    echo: bool | None = False
    logprobs: int | None = None
    add_special_tokens: bool = True

    @model_validator(mode="after")
    def _check_max_tokens(self) -> CompletionRequest:
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens must be at least 1, or 0 with echo to score the prompt alone")
        return self


# ---- chat ----


class FunctionSpec(Strict):
    """What a tool is called, and what it takes: a JSON schema."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(Strict):
    """A function that the model may call."""

    type: Literal["function"]
    function: FunctionSpec


class NamedFunction(Strict):
    """The name of a function."""

    name: str


class NamedToolChoice(Strict):
    """The one function that is to be called."""

    type: Literal["function"]
    function: NamedFunction


class CalledFunction(Strict):
    """A function that was called, and its arguments as JSON text."""

    name: str
    arguments: str


class ToolCall(Strict):
    """A call that an earlier answer made."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(Strict):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content = None
    name: ShortString | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_TOOLS)] | None = None
    tool_call_id: ShortString | None = None

    @model_validator(mode="after")
    def _check_content(self) -> ChatMessage:
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            raise ValueError("content is missing: only an assistant's tool calls go without")
        if self.tool_calls and self.role != "assistant":
            raise ValueError("tool_calls belong to the role assistant")
        return self


class ChatFields(Strict):
    """What turns a conversation into a prompt."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool = False  # the template writes them itself
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    chat_template_kwargs: TemplateKwargs = None

    @model_validator(mode="after")
    def _check_ending(self) -> ChatFields:
        if self.continue_final_message and self.add_generation_prompt:
            raise ValueError(
                "continue_final_message needs add_generation_prompt set to false: an answer cannot do both"
            )
        if self.continue_final_message and self.messages[-1].content is None:
            raise ValueError("continue_final_message needs a final message with text")
        return self


class ChatCompletionRequest(ChatFields, SamplingFields):
    """POST /v1/chat/completions."""

    max_completion_tokens: int | None = None
    logprobs: bool | None = False
    top_logprobs: int | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedToolChoice | None = None
    parallel_tool_calls: bool | None = True
    reasoning_effort: ShortString | None = None

    @model_validator(mode="after")
    def _check_top_logprobs(self) -> ChatCompletionRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs set to true")
        return self

    @model_validator(mode="after")
    def _check_tool_choice(self) -> ChatCompletionRequest:
        names = [tool.function.name for tool in self.tools or ()]
        if len(set(names)) < len(names):
            raise ValueError("tools must not hold two functions of the same name")
        if self.tool_choice not in (None, "none") and not names:
            raise ValueError("tool_choice needs tools to choose from")
        if isinstance(self.tool_choice, NamedToolChoice) and self.tool_choice.function.name not in names:
            raise ValueError(
                f"tool_choice names {self.tool_choice.function.name[:64]!r}, which is not in tools"
            )
        return self


# ---- the other routes ----


class EmbeddingRequest(Strict):
    """POST /v1/embeddings. `input` is a list of texts after validation."""

    model: str | None = None
    input: Input
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1, le=2**31)] | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=-1, le=2**31)] | None = None
    truncation_side: Literal["left", "right"] = "left"
    add_special_tokens: bool = True
    priority: Annotated[int, Field(ge=-(2**31), le=2**31 - 1)] = 0
    request_id: RequestId = None


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
    tokens: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=MAX_TOKEN_IDS)]
