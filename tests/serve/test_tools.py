"""Tool calls: found in text of any cut, enforced by a grammar, and the same in a stream."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minivllm.serve.tools import CLOSE, OPEN, ToolCallFinder

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a town.",
        "parameters": {
            "type": "object",
            "properties": {
                "town": {"enum": ["Bern", "Rome"]},
                "days": {"type": "integer", "maximum": 5, "minimum": 1},
            },
            "required": ["town", "days"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}
TEMPLATE = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool.function.name }} {% endfor %}"
    "<|im_end|>\n{% endif %}{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "{% for call in message.tool_calls or [] %}{{ call.function.name }}{{ call.function.arguments.town }}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


# ---- finding calls in text ----


def found_in(pieces):
    finder = ToolCallFinder()
    content, calls = [], []
    for piece in pieces:
        text, new = finder.feed(piece)
        content.append(text)
        calls += [(call.function.name, call.function.arguments) for call in new]
    return "".join([*content, finder.finish()]), calls


@st.composite
def answers(draw):
    """(text, content expected, calls expected), built from parts whose meaning is known."""
    text, content, calls = "", "", []
    for _ in range(draw(st.integers(0, 4))):
        plain = draw(st.sampled_from(["", "hello ", "<", "<tool", "a < b ", "</tool_call>", "中文 "]))
        text, content = text + plain, content + plain
        kind = draw(st.sampled_from(["call", "broken", "none"]))
        if kind == "call":
            arguments = draw(st.dictionaries(st.text(max_size=3), st.integers(), max_size=2))
            text += OPEN + json.dumps({"name": "f", "arguments": arguments}) + CLOSE
            calls.append(("f", json.dumps(arguments, ensure_ascii=False)))
        elif kind == "broken":
            broken = OPEN + draw(st.sampled_from(["", "{", "[]", "__import__('os')", '{"name": 5}'])) + CLOSE
            text, content = text + broken, content + broken
    return text, content, calls


def test_half_a_character_stays_an_escape():
    """JSON can spell it and UTF-8 cannot: an answer with it could not be sent."""
    text = OPEN + '{"name": "f", "arguments": {"a": "\\ud83d", "b": "é"}}' + CLOSE
    content, ((name, arguments),) = found_in([text])
    assert (content, name) == ("", "f") and json.loads(arguments) == {"a": "\ud83d", "b": "é"}
    assert arguments.isascii()
    named = OPEN + '{"name": "f\\ud83d", "arguments": {}}' + CLOSE
    assert found_in([named]) == (named, [])


@given(answers(), st.lists(st.integers(0, 200), max_size=12))
def test_any_cut_of_the_text_gives_the_same_calls(answer, cuts):
    text, content, calls = answer
    marks = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    pieces = [text[a:b] for a, b in zip(marks, marks[1:], strict=False)]
    assert found_in([text]) == found_in(pieces) == found_in(list(text)) == (content, calls)


def test_plain_text_is_not_held_back():
    finder = ToolCallFinder()
    assert finder.feed("a < b and <t")[0] == "a < b and "
    assert finder.feed("ag>")[0] == "<tag>"


def test_unfinished_call_is_content():
    text = 'so: <tool_call>{"name": "f"'
    assert found_in(list(text)) == (text, [])


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>" * 20_000,
        OPEN + "[" * 200_000,
        OPEN + "a" * 99_000 + CLOSE,
        "<" * 200_000,
        CLOSE * 20_000,
    ],
)
def test_hostile_text_takes_linear_time(text):
    started = time.monotonic()
    assert found_in([text[i : i + 7] for i in range(0, len(text), 7)]) == (text, [])
    assert time.monotonic() - started < 3


# ---- over the real engine, with a template that knows tools ----


@pytest.fixture(scope="module")
def tooled(serve):
    from minivllm.config import EngineConfig
    from minivllm.engine import LLMEngine

    engine = LLMEngine(EngineConfig(model="tutor", num_gpu_blocks_override=150))
    settings = {"chat_template": TEMPLATE, "enable_auto_tool_choice": True, "tool_call_parser": "hermes"}
    return serve(engine, served_model_names=("tutor",), **settings)


def ask(tooled, **fields):
    fields = {"messages": [{"role": "user", "content": "How is the weather?"}], "temperature": 0, **fields}
    return tooled.client().chat.completions.create(model="tutor", max_tokens=60, **fields)


def streamed_calls(chunks):
    calls, reason = {}, None
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        for delta in choice.delta.tool_calls or ():
            call = calls.setdefault(
                delta.index, {"id": delta.id, "name": delta.function.name, "arguments": ""}
            )
            call["arguments"] += delta.function.arguments or ""
        reason = choice.finish_reason or reason
    return list(calls.values()), reason


NAMED = {"type": "function", "function": {"name": "weather"}}


@pytest.mark.parametrize(("choice", "reason"), [(NAMED, "stop"), ("required", "tool_calls")])
def test_call_that_must_be_made_is_made_as_its_schema_says(tooled, choice, reason):
    one = {"tools": [WEATHER], "tool_choice": choice, "parallel_tool_calls": False}
    answer = ask(tooled, **one).choices[0]
    (call,) = answer.message.tool_calls
    assert (
        call.function.name == "weather" and answer.message.content is None and answer.finish_reason == reason
    )
    arguments = json.loads(call.function.arguments)
    assert arguments["town"] in ("Bern", "Rome") and 1 <= arguments["days"] <= 5
    (streamed,), end = streamed_calls(ask(tooled, **one, stream=True))
    assert json.loads(streamed["arguments"]) == arguments and streamed["name"] == "weather" and end == reason
    assert streamed["id"]


def test_required_call_chooses_among_the_tools(tooled):
    answer = ask(tooled, tools=[CLOCK], tool_choice="required", parallel_tool_calls=False).choices[0]
    assert [(c.function.name, c.function.arguments) for c in answer.message.tool_calls] == [("clock", "{}")]


def test_with_auto_the_model_may_just_talk(tooled):
    answer = ask(tooled, tools=[WEATHER]).choices[0]
    assert answer.message.content and not answer.message.tool_calls
    text = "".join(c.choices[0].delta.content or "" for c in ask(tooled, tools=[WEATHER], stream=True))
    assert text == answer.message.content


def test_tools_are_told_to_the_model_unless_none_is_chosen(tooled):
    with_tools, without = (
        ask(tooled, tools=[WEATHER], tool_choice=choice).usage.prompt_tokens for choice in ("auto", "none")
    )
    assert with_tools > without == ask(tooled).usage.prompt_tokens


def test_conversation_with_calls_goes_on(tooled):
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"town": "Bern"}'}}
    messages = [
        {"role": "user", "content": "How is it?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "sunny", "tool_call_id": "1"},
    ]
    assert ask(tooled, messages=messages).choices[0].message.content
    call["function"]["arguments"] = "{"
    body = {"messages": messages}
    response = tooled.post("/v1/chat/completions", json=body)
    assert response.status_code == 400 and response.json()["error"]["param"] == "messages"


@pytest.mark.parametrize(
    "parameters", [{"type": "nonsense"}, {"pattern": "[", "type": "string"}, {"$ref": "#/nowhere"}]
)
def test_tool_whose_schema_is_none_is_refused(tooled, parameters):
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    body = {"messages": [{"role": "user", "content": "a"}], "tools": [tool], "tool_choice": "required"}
    response = tooled.post("/v1/chat/completions", json=body)
    assert response.status_code == 400, response.text


def test_template_that_fails_is_a_400(serve, fake):
    """What a template throws at a strange conversation is the conversation's fault, not the server's."""
    engine = fake.FakeEngine()
    engine.tokenizer.apply_chat_template = lambda *_, **__: 1 / 0
    server = serve(engine)
    response = server.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "a"}]})
    assert response.status_code == 400 and response.json()["error"]["param"] == "messages"
