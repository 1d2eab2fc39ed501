"""`python -m minivllm.run_batch`: as many answers as requests, in their order, whatever becomes of each."""

import json

import pytest

from minivllm.llm import LLM
from minivllm.run_batch import main, read_tasks
from minivllm.sampling_params import SamplingParams

FLAGS = ("--num-gpu-blocks-override", "120", "--max-num-seqs", "8")
MESSAGES = [{"role": "user", "content": "What is a block table?"}]


@pytest.fixture
def run(tmp_path, capsys):
    def run_it(name, content, *flags):
        source, target = tmp_path / name, tmp_path / "made" / f"out-{name}"
        source.write_text(content, encoding="utf-8")
        assert main(["-i", str(source), "-o", str(target), *FLAGS, *flags]) == 0
        return target.read_text(encoding="utf-8"), capsys.readouterr().out

    return run_it


def line(custom_id, body, url="/v1/completions", **more):
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body, **more})


def test_a_line_for_a_line(run):
    greedy = {"temperature": 0, "max_tokens": 5}
    lines = [
        *(line(f"c{i}", {"prompt": f"Number {i}", **greedy, "max_tokens": 12 - i}) for i in range(10)),
        line("chat", {"messages": MESSAGES, **greedy}, "/v1/chat/completions"),
        line("vector", {"input": "a block"}, "/v1/embeddings"),
        "",
        line("bad", {"prompt": "", **greedy}),
        line("stream", {"prompt": "a", "stream": True}),
        line("route", {}, "/v1/images"),
        line("method", {}, method="GET"),
        line("model", {"prompt": "a", "model": "other"}),
        "{no json",
        "[]",
    ]
    text, said = run("in.jsonl", "\n".join(lines))
    rows = [json.loads(row) for row in text.splitlines()]
    ids = [*(f"c{i}" for i in range(10)), "chat", "vector", "bad", "stream", "route", "method", "model"]
    assert [row["custom_id"] for row in rows] == [*ids, None, None]
    assert [row["response"]["status_code"] for row in rows] == [200] * 12 + [400] * 4 + [404] + [400] * 2
    for i, row in enumerate(rows[:10]):
        assert row["error"] is None and row["response"]["body"]["usage"]["completion_tokens"] <= 12 - i
    assert rows[10]["response"]["body"]["object"] == "chat.completion"
    assert len(rows[11]["response"]["body"]["data"][0]["embedding"]) == 256
    sentences = [row["error"]["message"] for row in rows[12:]]
    for sentence, part in zip(
        sentences,
        ("prompt", "stream must be false", "url must be one of", "method must be POST", "does not exist")
        + ("line 19 is not valid JSON", "line 20 must be an object"),
        strict=True,
    ):
        assert part in sentence
    assert "12 of 19 requests answered, 7 refused" in said


def test_a_list_of_prompts_gives_the_answers_of_the_offline_engine(run):
    tasks = [{"id": 10 - i, "prompt": f"Once upon a time {i}"} for i in range(6)]
    special = [{"id": "own", "prompt": "Once", "max_tokens": 2}, {"id": "chat", "messages": MESSAGES}]
    flags = ("--temperature", "0", "--max-tokens", "9", "--stop", "</s>", "\n\n")
    text, _ = run("tasks.json", json.dumps([*tasks, *special, {"id": "none"}, 5]), *flags)
    rows = json.loads(text)
    assert [row["id"] for row in rows] == [10, 9, 8, 7, 6, 5, "own", "chat", "none", None]
    params = SamplingParams(temperature=0, max_tokens=9, stop=["</s>", "\n\n"])
    outputs = LLM("tutor").generate([task["prompt"] for task in tasks], params, use_tqdm=False)
    assert rows[:6] == [
        {**task, "generated": output.outputs[0].text} for task, output in zip(tasks, outputs, strict=True)
    ]
    assert rows[7]["generated"] and rows[7]["messages"] == MESSAGES
    assert rows[8] == {"id": "none", "error": "an item needs prompt or messages"} and "error" in rows[9]


@pytest.mark.parametrize(
    "name, content, sentence",
    [
        ("in.txt", "x", "must end in .jsonl or .json"),
        ("in.jsonl", " \n", "holds no request"),
        ("in.json", "[", "is not valid JSON"),
        ("in.json", "[" * 100_000, "is not valid JSON"),
        ("in.json", "{}", "must hold a list"),
    ],
)
def test_a_file_that_is_none_gets_a_sentence(tmp_path, capsys, name, content, sentence):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=sentence):
        read_tasks(tmp_path / name, {})
    with pytest.raises(SystemExit) as ended:
        main(["-i", str(tmp_path / name), "-o", str(tmp_path / "out")])
    assert ended.value.code == 2 and sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_flags_of_the_server_are_checked_before_anything_is_loaded(tmp_path, capsys):
    (tmp_path / "in.jsonl").write_text(line("a", {"prompt": "a"}))
    for flags, sentence in (
        (["--enable-lora"], "--enable-lora is not served"),
        (["--block-size", "0"], "block_size"),
    ):
        with pytest.raises(SystemExit):
            main(["-i", str(tmp_path / "in.jsonl"), "-o", str(tmp_path / "out"), *flags])
        assert sentence in capsys.readouterr().err
