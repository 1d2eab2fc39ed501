"""What people do with the openai package of today. Arguments: base URL, then the names that the server has."""

import sys

import openai
from openai import OpenAI

base_url, *names = sys.argv[1:]
client = OpenAI(base_url=f"{base_url}/v1", api_key="EMPTY")
messages = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "What is PagedAttention?"},
]
assert [model.id for model in client.models.list()] == names

for name in names:  # every name is the same model, and answers carry the first
    response = client.chat.completions.create(model=name, messages=messages, max_tokens=8)
    assert response.choices[0].message.content and response.model == names[0]

stream = client.chat.completions.create(
    model=names[-1],
    messages=messages,
    temperature=0,
    max_tokens=24,
    stream=True,
    stream_options={"include_usage": True},
)
chunks = list(stream)
text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
whole = client.chat.completions.create(model=names[-1], messages=messages, temperature=0, max_tokens=24)
assert text == whole.choices[0].message.content and chunks[-1].usage == whole.usage

response = client.chat.completions.create(
    model=names[0],
    messages=[{"role": "user", "content": "你好"}],
    temperature=0.7,
    max_tokens=16,
    extra_body={"repetition_penalty": 1.1, "top_k": 50, "min_p": 0.1},
)
assert response.usage.completion_tokens <= 16

several = client.completions.create(
    model=names[0],
    prompt=["Once upon a time", "San Francisco is a"],
    n=2,
    seed=1,
    temperature=0.9,
    max_tokens=6,
    logprobs=2,
)
assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
assert all(len(choice.logprobs.tokens) == 6 for choice in several.choices if choice.finish_reason == "length")

with client.completions.with_streaming_response.create(
    model=names[0], prompt="A fox", max_tokens=4, stream=True
) as raw:
    assert list(raw.iter_lines())[-1] in ("data: [DONE]", "")

schema = {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"]}
form = {"type": "json_schema", "json_schema": {"name": "colour", "schema": schema}}
answer = client.chat.completions.create(
    model=names[0], messages=messages, response_format=form, max_tokens=60
)
assert answer.choices[0].finish_reason in ("stop", "length")

floats = client.embeddings.create(model=names[0], input=["one", "two"], encoding_format="float")
packed = client.embeddings.create(model=names[0], input=["one", "two"])  # base64, unpacked by the client
for one, other in zip(floats.data, packed.data, strict=True):
    assert max(abs(a - b) for a, b in zip(one.embedding, other.embedding, strict=True)) < 1e-6

for wrong, error in (
    ({"temperature": 9}, openai.BadRequestError),
    ({"model": "gpt-9"}, openai.NotFoundError),
    ({"model": "cn-lora"}, openai.NotFoundError),  # an adapter that is not there
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, openai.BadRequestError),
    (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "What is it?"},
                        {"type": "image_url", "image_url": {"url": "image.jpg"}},
                    ],
                }
            ]
        },
        openai.BadRequestError,
    ),
):
    try:
        client.chat.completions.create(**{"model": names[0], "messages": messages, **wrong})
    except error as refusal:
        print(refusal.body["message"])
    else:
        raise AssertionError(f"{wrong} was answered")
print("openai", openai.__version__, "done")
