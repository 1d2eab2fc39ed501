"""Checks of request fields that a type alone cannot express: each gives the value back, or raises ValueError.

Every one bounds what a stranger can make the server do: so many prompts, so many stop strings, so many characters.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field

MAX_PROMPTS = 1024
MAX_STOP_STRINGS = 4
MAX_STRING_CHARS = 1024  # of a stop string or a bad word
MAX_BAD_WORDS = 128
MAX_LOGIT_BIAS = 1024
MAX_STOP_TOKEN_IDS = 1024
MAX_TEMPLATE_KWARGS = 16

Int64 = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
ShortString = Annotated[str, Field(max_length=MAX_STRING_CHARS)]
TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=MAX_STOP_TOKEN_IDS)]
_OF_THE_SERVER = frozenset(
    {
        "add_generation_prompt",
        "chat_template",
        "continue_final_message",
        "conversation",
        "documents",
        "messages",
        "return_dict",
        "return_tensors",
        "tokenize",
        "tools",
    }
)


def check_prompt(prompt: Any) -> Any:
    """`check_texts` of a completion's prompt."""
    return check_texts("prompt", prompt)


def check_input(given: Any) -> Any:
    """`check_texts` of what is to be embedded."""
    return check_texts("input", given)


def check_texts(name: str, given: Any) -> Any:
    """A string, token ids, or up to MAX_PROMPTS of either, and nothing empty; as a list of them. Else ValueError."""
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts:
        raise ValueError(f"{name} must be a non-empty string, a list of token ids, or a list of either")
    if _is_token_ids(texts):
        return [texts]
    if len(texts) > MAX_PROMPTS:
        raise ValueError(f"{name} holds {len(texts)} texts; at most {MAX_PROMPTS} are served in one request")
    if not (all(isinstance(text, str) for text in texts) or all(_is_token_ids(text) for text in texts)):
        raise ValueError(
            f"{name} must hold only strings, or only lists of token ids (integers of at least 0)"
        )
    if not all(texts):
        raise ValueError(f"{name} must not be empty, nor hold an empty text")
    return texts


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
    """A string, or text parts, which are joined by newlines; None stays None."""
    if content is None or isinstance(content, str):
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


def check_template_kwargs(kwargs: Any) -> Any:
    """A few plain values for the model's chat template, such as enable_thinking; never the template itself."""
    if kwargs is None:
        return None
    if not isinstance(kwargs, dict) or len(kwargs) > MAX_TEMPLATE_KWARGS:
        raise ValueError(f"chat_template_kwargs must be an object of at most {MAX_TEMPLATE_KWARGS} values")
    for name, value in kwargs.items():
        if name in _OF_THE_SERVER or not name.isidentifier() or name.startswith("_"):
            raise ValueError(
                f"chat_template_kwargs must not hold {name[:40]!r}, which is for the server to set"
            )
        if not isinstance(value, (bool, int, float, str, type(None))) or len(str(value)) > MAX_STRING_CHARS:
            raise ValueError(f"chat_template_kwargs must hold short plain values, and {name[:40]!r} is none")
    return kwargs


def check_request_id(request_id: Any) -> Any:
    """1 to 128 printable ASCII characters."""
    if request_id is None:
        return None
    is_text = isinstance(request_id, str) and request_id.isascii() and request_id.isprintable()
    if not is_text or not 1 <= len(request_id) <= 128 or " " in request_id:
        raise ValueError("request_id must be 1 to 128 printable ASCII characters without spaces")
    return request_id


# The fields themselves. `json_schema_input_type` is what the reference at /docs tells: what may be sent has more forms
# than what the checks make of it.

_Text = Annotated[str, Field(min_length=1)]
_Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
_Many = Field(min_length=1, max_length=MAX_PROMPTS)
_Texts = _Text | _Ids | Annotated[list[_Text], _Many] | Annotated[list[_Ids], _Many]
_Stop = Annotated[str, Field(min_length=1, max_length=MAX_STRING_CHARS)]
_Stops = _Stop | Annotated[list[_Stop], Field(max_length=MAX_STOP_STRINGS)] | None
_Bias = dict[Annotated[str, Field(pattern="^[0-9]{1,9}$")], float]
_Salt = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^@/\\\x00]+$")]
_Id = Annotated[str, Field(pattern="^[!-~]{1,128}$")]
_Kwargs = dict[str, bool | int | float | ShortString | None]


class TextPart(BaseModel):
    """One of several texts of a message."""

    type: Literal["text"]
    text: str


_Content = str | Annotated[list[TextPart], Field(min_length=1)] | None

Prompt = Annotated[list[str] | list[list[int]], BeforeValidator(check_prompt, json_schema_input_type=_Texts)]
Input = Annotated[list[str] | list[list[int]], BeforeValidator(check_input, json_schema_input_type=_Texts)]
Stop = Annotated[list[str] | None, BeforeValidator(check_stop, json_schema_input_type=_Stops)]
LogitBias = Annotated[
    dict[int, float] | None,
    BeforeValidator(
        check_logit_bias,
        json_schema_input_type=Annotated[_Bias, Field(max_length=MAX_LOGIT_BIAS)] | None,
    ),
]
CacheSalt = Annotated[str | None, BeforeValidator(check_cache_salt, json_schema_input_type=_Salt | None)]
RequestId = Annotated[str | None, BeforeValidator(check_request_id, json_schema_input_type=_Id | None)]
Content = Annotated[str | None, BeforeValidator(check_content, json_schema_input_type=_Content)]
TemplateKwargs = Annotated[
    dict[str, Any] | None,
    BeforeValidator(
        check_template_kwargs,
        json_schema_input_type=Annotated[_Kwargs, Field(max_length=MAX_TEMPLATE_KWARGS)] | None,
    ),
]
