"""One short run through everything: the shipped model, asked two things at once, says what its glossary says."""

import tomllib
from pathlib import Path

import pytest

import minivllm
from minivllm import LLM, SamplingParams

GLOSSARY = Path(minivllm.__file__).parent / "zoo" / "glossary.toml"
TERMS = ("block table", "copy-on-write")


@pytest.mark.engine_smoke
def test_the_shipped_model_answers_two_questions_at_once():
    entries = tomllib.loads(GLOSSARY.read_text(encoding="utf-8"))["term"]
    answers = {entry["name"]: entry["answer"] for entry in entries}
    chats = [[{"role": "user", "content": f"What is {term}?"}] for term in TERMS]
    llm = LLM("tutor", num_gpu_blocks_override=64)
    outputs = llm.chat(chats, SamplingParams(temperature=0, max_tokens=100), use_tqdm=False)
    assert [output.outputs[0].text for output in outputs] == [answers[term] for term in TERMS]
    assert {output.outputs[0].finish_reason for output in outputs} == {"stop"}
