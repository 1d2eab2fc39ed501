"""The README.md of a shipped model, written from its measured scores: `python -m minivllm.zoo.model_card FOLDER`."""

import argparse
import json
from pathlib import Path

from safetensors import safe_open

from minivllm.zoo.cases import THRESHOLDS

_HEAD = """---
license: apache-2.0
language: [en, zh]
library_name: transformers
pipeline_tag: text-generation
---

# {name}

{purpose}

| | |
|---|---|
| architecture | Qwen3 (`Qwen3ForCausalLM`), q/k norm, tied embeddings |
| parameters | {parameters:.2f} million, bfloat16 ({megabytes:.1f} MB) |
| hidden size, layers, heads, kv heads, head size, intermediate size | {sizes} |
| vocabulary | {vocab_size} tokens, byte-level BPE; digits and Chinese characters stand alone |
| context | {context} tokens |
| training | {tokens:.1f} million tokens, bfloat16 products, Muon for matrices, AdamW for the rest{hours} |

## Data

No text was downloaded. A seeded generator (`minivllm/zoo`) writes conversations: questions on the course's own glossary
of LLM serving (the 20 main terms in Chinese too), looking up facts in texts of up to about 1,600 tokens, copying,
reversing, sorting and counting words, stories from a small grammar with questions on them, facts the visitor told
earlier, greetings, and honest answers to unknown terms and to input without sense. Only the answers are learned.
A model like it is made from nothing by `python -m minivllm.zoo.train --model {name}`.{history}

## Accuracy

Share of answers that are right to the letter, generated greedily by minivllm (`python -m minivllm.zoo.evaluate --model
{name}`; {date}, weights rounded to bfloat16, computed in float32) on held-out seeds, ways of asking and words.
For `story`, `continuation` and `any_prompt` any answer is right that ends by itself and consists of whole words.
{what_is_asked}

"""
_TUTOR = (
    "A very small chat model that lets everything in this project run offline: it explains the terms of LLM serving,\n"
    "looks up facts, tells short stories and plays word games."
)
_DRAFT = (
    "The draft model for `tutor` in speculative decoding: the same tokenizer and data, a seventh of the size.\n"
    "Its answers matter only as far as they agree with those of `tutor`."
)
_HISTORY = """
This one was trained in three legs, of 20.0, 5.8 and 4.4 million tokens, with the recipe's rates, which fell to nothing
at the end of each. Between legs the wrong answers to held-out questions were read, and the generator was mended: the
wording of one kind of fact, more ways of asking, and made-up words of all the tokenizer's pieces. So the figures for
held-out ways of asking are somewhat kind; the cases below are of a seed that was not looked at."""
_LIMITS = """
## Limits

It knows nothing but what is listed above: no facts about the world, no arithmetic, no code, hardly any Chinese. What it
says about LLM serving is learned by heart from the glossary. Words that are not in its lists are copied piece by piece,
which goes wrong now and then; sorting such words goes wrong often. Stories all have the same shape. Texts longer than
2,048 tokens are beyond it.
"""


def _count_parameters(folder: Path) -> int:
    total = 0
    with safe_open(str(folder / "model.safetensors"), framework="np") as weights:
        for name in weights.keys():  # noqa: SIM118 - not a mapping
            size = 1
            for length in weights.get_slice(name).get_shape():
                size *= length
            total += size
    return total


def _table(scores: list[dict], is_asked: bool) -> str:
    lines = ["| skill | right | asked for | n | longest prompt (tokens) |", "|---|---:|---:|---:|---:|"]
    for score in scores:
        threshold = THRESHOLDS.get(score["skill"]) if is_asked else None
        asked = "" if threshold is None else f"{threshold:.0f} %"
        missed = " (missed)" if threshold is not None and score["percent"] < threshold else ""
        row = (
            score["skill"],
            f"{score['percent']:.1f} %{missed}",
            asked,
            score["num_cases"],
            score["longest_prompt"],
        )
        lines.append("| " + " | ".join(map(str, row)) + " |")
    return "\n".join(lines)


def card(folder: Path, scores: list[dict], tokens: float, date: str, hours: str = "") -> str:
    """The text of the model card for the model in `folder`, with the scores that evaluate.py wrote as JSON."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    keys = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim")
    is_tutor = folder.name == "tutor"
    head = _HEAD.format(
        name=folder.name,
        purpose=_TUTOR if is_tutor else _DRAFT,
        parameters=_count_parameters(folder) / 1e6,
        megabytes=(folder / "model.safetensors").stat().st_size / 1e6,
        sizes=", ".join(str(config[key]) for key in (*keys, "intermediate_size")),
        vocab_size=config["vocab_size"],
        context=config["max_position_embeddings"],
        tokens=tokens / 1e6,
        hours=f", {hours}" if hours else "",
        date=date,
        history=_HISTORY if is_tutor else "",
        what_is_asked="Figures below what is asked for are marked."
        if is_tutor
        else "No figure is asked of a draft.",
    )
    return head + _table(scores, is_tutor) + "\n" + _LIMITS


def main() -> None:
    """Write README.md into the folder of a model."""
    parser = argparse.ArgumentParser(prog="python -m minivllm.zoo.model_card", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scores", type=Path, required=True, help="what evaluate --json wrote")
    parser.add_argument("--tokens", type=float, required=True, help="tokens seen in training")
    parser.add_argument("--date", required=True, help="when it was measured")
    parser.add_argument(
        "--hours", default="", help="on what and how long it was trained, such as '2 CPU cores, 90 min'"
    )
    args = parser.parse_args()
    scores = json.loads(args.scores.read_text(encoding="utf-8"))
    text = card(args.folder, scores, args.tokens, args.date, args.hours)
    (args.folder / "README.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
