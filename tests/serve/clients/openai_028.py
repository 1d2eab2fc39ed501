"""What people did with openai 0.28, the last release of the old interface. Arguments as in openai_now.py."""

import sys

import openai

base_url, *names = sys.argv[1:]
openai.api_key = "EMPTY"
openai.api_base = f"{base_url}/v1"
messages = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "What is the capital of France?"},
]

assert [model["id"] for model in openai.Model.list()["data"]] == names
for name in names:
    completion = openai.Completion.create(
        model=name, prompt="San Francisco is a", max_tokens=20, temperature=0.7
    )
    assert completion.choices[0].text and completion.usage.completion_tokens <= 20

chat = openai.ChatCompletion.create(model=names[-1], messages=messages, temperature=0, max_tokens=20)
chunks = openai.ChatCompletion.create(
    model=names[-1], messages=messages, temperature=0, max_tokens=20, stream=True
)
text = "".join(chunk.choices[0].delta.get("content", "") for chunk in chunks)
assert text == chat.choices[0].message.content

vectors = openai.Embedding.create(model=names[0], input=["one", "two"], encoding_format="float")["data"]
assert len(vectors) == 2 and len(vectors[0]["embedding"]) > 8

for wrong in ({"temperature": 9}, {"model": "gpt-9"}):
    try:
        openai.Completion.create(**{"model": names[0], "prompt": "a", **wrong})
    except openai.error.InvalidRequestError as refusal:
        print(refusal.user_message)
    else:
        raise AssertionError(f"{wrong} was answered")
print("openai", openai.__version__, "done")
