"""The server over the real engine and the model that ships: the same answers as offline, and no block lost."""

import concurrent.futures
import time

import httpx
import pytest

from minivllm import zoo

MODEL = "tutor"
NUM_BLOCKS = 150  # small, so that many requests at once have to wait or be preempted
QUESTIONS = [
    "What is PagedAttention?",
    "What is copy-on-write?",
    "什么是 KV cache？",
]

pytestmark = pytest.mark.skipif(MODEL not in zoo.names(), reason=f"the model {MODEL} is not in this checkout")


@pytest.fixture(autouse=True)
def nothing_left_behind(request):
    yield
    real = request.getfixturevalue("real")
    real.wait_until_idle()
    assert real.async_engine.stats.num_free_blocks == NUM_BLOCKS - 1
    assert real.get("/health").status_code == 200


def ask(real, question, **options):
    messages = [{"role": "user", "content": question}]
    return real.client().chat.completions.create(
        model=MODEL, messages=messages, temperature=0, max_tokens=40, **options
    )


def streamed(real, question):
    return "".join(c.delta.content or "" for chunk in ask(real, question, stream=True) for c in chunk.choices)


def test_answers_equal_those_without_the_server(real, offline):
    for question, (text, num_tokens) in offline.items():
        answer = ask(real, question)
        assert answer.choices[0].message.content == text
        assert answer.usage.completion_tokens == num_tokens
        assert streamed(real, question) == text


def test_many_at_once_get_the_answers_they_get_alone(real, offline):
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        given = list(pool.map(lambda question: streamed(real, question), QUESTIONS * 3))
    assert given == [offline[question][0] for question in QUESTIONS * 3]


def test_completion_of_many_prompts_with_echo(real):
    prompts = ["Once upon a time", "One rainy morning,"]
    answer = real.client().completions.create(
        model=MODEL, prompt=prompts, max_tokens=8, temperature=0, echo=True, extra_body={"ignore_eos": True}
    )
    assert [choice.index for choice in answer.choices] == [0, 1] and answer.usage.completion_tokens == 16
    assert all(choice.text.startswith(prompt) for choice, prompt in zip(answer.choices, prompts, strict=True))
    assert [choice.finish_reason for choice in answer.choices] == ["length", "length"]
    counts = [real.post("/tokenize", json={"prompt": prompt}).json()["count"] for prompt in prompts]
    assert answer.usage.prompt_tokens == sum(counts)


def test_stop_string_ends_the_text_before_it(real, offline):
    text = offline[QUESTIONS[0]][0]
    stop = text.split()[3]
    for stream in (False, True):
        answer = ask(real, QUESTIONS[0], stop=stop, stream=stream)
        if stream:
            chunks = [choice for chunk in answer for choice in chunk.choices]
            given, reason = "".join(c.delta.content or "" for c in chunks), chunks[-1].finish_reason
        else:
            given, reason = answer.choices[0].message.content, answer.choices[0].finish_reason
        assert (given, reason) == (text[: text.index(stop)], "stop")


def test_several_choices_of_one_prompt(real):
    def ask(**options):
        options = {
            "prompt": ["Once upon a time", "One day,"],
            "n": 3,
            "max_tokens": 8,
            "temperature": 1.0,
            **options,
        }
        return real.client().completions.create(model=MODEL, seed=42, **options)

    whole = ask()
    assert [choice.index for choice in whole.choices] == list(range(6))
    assert len({choice.text for choice in whole.choices[:3]}) == 3
    said = {}
    for chunk in ask(stream=True, stream_options={"include_usage": True}):
        for choice in chunk.choices:
            said[choice.index] = said.get(choice.index, "") + choice.text
    assert said == {choice.index: choice.text for choice in whole.choices}
    assert chunk.usage == whole.usage and whole.usage.completion_tokens <= 48

    messages = [{"role": "user", "content": "Tell me a story."}]
    options = {"model": MODEL, "messages": messages, "n": 2, "seed": 7, "temperature": 1.2, "max_tokens": 8}
    whole = real.client().chat.completions.create(**options)
    said, ends = {0: "", 1: ""}, []
    chunks = list(real.client().chat.completions.create(**options, stream=True))
    assert [(c.choices[0].index, c.choices[0].delta.role) for c in chunks[:2]] == [
        (0, "assistant"),
        (1, "assistant"),
    ]
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        assert choice.index not in ends
        said[choice.index] += choice.delta.content or ""
        ends += [choice.index] if choice.finish_reason else []
    assert said == {choice.index: choice.message.content for choice in whole.choices} and sorted(ends) == [
        0,
        1,
    ]


def test_logprobs_of_a_completion(real):
    def ask(logprobs, **options):
        options = {"prompt": "Once upon", "max_tokens": 6, "temperature": 0, "logprobs": logprobs, **options}
        return real.client().completions.create(model=MODEL, **options, extra_body={"ignore_eos": True})

    (choice,) = ask(3).choices
    columns = choice.logprobs
    assert len(columns.tokens) == len(columns.token_logprobs) == len(columns.text_offset) == 6
    for token, logprob, top in zip(columns.tokens, columns.token_logprobs, columns.top_logprobs, strict=True):
        assert logprob <= 0 and len(top) in (3, 4) and top[token] == logprob == max(top.values())  # greedy
    for token, offset in zip(columns.tokens, columns.text_offset, strict=True):
        assert choice.text[offset : offset + len(token)] == token
    assert [len(top) for top in ask(0).choices[0].logprobs.top_logprobs] == [1] * 6
    echoed = ask(1, echo=True).choices[0]
    num_prompt = real.post("/tokenize", json={"prompt": "Once upon"}).json()["count"]
    assert echoed.logprobs.token_logprobs[0] is None and len(echoed.logprobs.tokens) == num_prompt + 6
    assert "".join(echoed.logprobs.tokens) == echoed.text and echoed.text.startswith("Once upon")
    assert echoed.logprobs.token_logprobs[num_prompt:] == pytest.approx(columns.token_logprobs, abs=1e-3)
    for echo in (False, True):
        streamed = [c for chunk in ask(1, echo=echo, stream=True) for c in chunk.choices]
        whole = ask(1, echo=echo).choices[0].logprobs
        assert [t for c in streamed if c.logprobs for t in c.logprobs.tokens] == whole.tokens
        assert [t for c in streamed if c.logprobs for t in c.logprobs.text_offset] == whole.text_offset


def test_logprobs_of_a_chat(real):
    (choice,) = ask(real, QUESTIONS[0], logprobs=True, top_logprobs=2).choices
    rows = choice.logprobs.content
    assert (
        "".join(row.token for row in rows[:-1]) == choice.message.content
    )  # the last one is the end of sequence
    for row in rows:
        assert row.logprob <= 0 and bytes(row.bytes).decode() == row.token
        assert [top.logprob for top in row.top_logprobs] == sorted(
            (t.logprob for t in row.top_logprobs), reverse=True
        )
        assert len(row.top_logprobs) == 2 and row.top_logprobs[0].token == row.token
    streamed = [c for chunk in ask(real, QUESTIONS[0], logprobs=True, stream=True) for c in chunk.choices]
    tokens = [row.token for c in streamed if c.logprobs for row in c.logprobs.content]
    assert tokens == [row.token for row in rows]
    assert ask(real, QUESTIONS[0]).choices[0].logprobs is None


def test_clients_that_leave_free_their_blocks(real):
    body = {"prompt": "Once upon a time", "max_tokens": 1900, "ignore_eos": True}
    url = real.url + "/v1/completions"
    with httpx.stream("POST", url, json={**body, "stream": True}) as response:
        lines = response.iter_lines()
        next(lines)
        assert real.async_engine.stats.num_running_reqs == 1
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(url, json=body, timeout=0.3)
    started = time.monotonic()
    real.wait_until_idle()
    assert time.monotonic() - started < 3


def test_bad_input_of_a_real_model(real):
    vocab_size, limit = real.engine.model_config.vocab_size, real.engine.max_model_len
    for body in (
        {"prompt": [999999]},
        {"prompt": [vocab_size]},
        {"prompt": "fox " * limit},
        {"prompt": "a", "n": 2, "temperature": 0},
        {"prompt": "a", "n": 20_000},
        {"prompt": "a", "logprobs": 21},
        {"prompt": "a", "logprobs": -2},
        {"prompt": "a", "logprobs": 10**6, "echo": True},
        {"prompt": "a", "stop_token_ids": [vocab_size]},
        {"prompt": "a", "min_tokens": 10**9},
        {"prompt": "a", "allowed_token_ids": [vocab_size]},
        {"prompt": "a", "logit_bias": {str(vocab_size): 1}},
    ):
        for stream in (False, True):
            response = real.post("/v1/completions", json={**body, "stream": stream})
            assert response.status_code == 400 and response.json()["error"]["message"], body


def test_prompt_that_just_fits_and_max_tokens_beyond_the_context(real):
    limit = real.engine.max_model_len
    answer = real.post("/v1/completions", json={"prompt": [5] * (limit - 1), "max_tokens": 1000}).json()
    assert answer["usage"] == {
        "prompt_tokens": limit - 1,
        "completion_tokens": 1,
        "total_tokens": limit,
        "prompt_tokens_details": None,
    }
    assert answer["choices"][0]["finish_reason"] in ("length", "stop")


def test_metrics_of_a_real_engine(real):
    before = real.async_engine.stats
    answer = ask(real, QUESTIONS[0])
    after = real.async_engine.stats
    assert after.num_generation_tokens - before.num_generation_tokens == answer.usage.completion_tokens
    assert after.num_prompt_tokens - before.num_prompt_tokens == answer.usage.prompt_tokens
    text = real.get("/metrics").text
    assert (
        f'vllm:generation_tokens_total{{engine="0",model_name="{MODEL}"}} {float(after.num_generation_tokens)}'
        in text
    )
    assert "vllm:time_to_first_token_seconds_bucket" in text and "vllm:prefix_cache_hits_total" in text
