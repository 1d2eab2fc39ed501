"""The README.md beside trained heads, with what training measured."""

import math
from pathlib import Path

from safetensors import safe_open

_TEXT = """---
license: apache-2.0
language: [en, zh]
pipeline_tag: text-generation
---

# {name}

Heads that draft for `{model}` in speculative decoding. They read the hidden state that a token was drawn from, and that
token, and guess the {k} tokens behind it, all in one go:

    python -m minivllm.serve --model {model} \\
      --speculative-config '{{"method": "medusa", "model": "{name}", "num_speculative_tokens": {k}}}'

| | |
|---|---|
| architecture | `minivllm/spec_decode/medusa.py`: a block for the drawn token, then {k} heads of one residual block |
| parameters | {parameters:.2f} million, bfloat16 ({megabytes:.1f} MB); embedding and output matrix are `{model}`'s |
| training | {steps:,} steps of {batch} positions, AdamW, one thread, {minutes:.0f} minutes with reading |
| data | {tokens:,} tokens of generated conversations |

## Data

No text was downloaded. The same seeded generator that `{model}` learned from writes conversations, with more stories
and definitions and fewer word games. `{model}` reads them, and the heads learn what it says itself. They are made from
nothing by `python -m minivllm.zoo.medusa --model {model}`.

## How often a draft is right

Greedy, and only where all drafts before it were right, on rows that were not trained on. Speed is measured by
`python -m minivllm.bench spec-decode`.

| draft | right |
|---:|---:|
{rows}

## Limits

A wrong draft costs time and never changes an answer. With any model but `{model}` nearly all drafts are wrong. vLLM's
`medusa` has no block for the drawn token, so it cannot read this folder, nor can minivllm read its checkpoints.
"""


def card(
    folder: Path, model: str, shares: list[float], tokens: int, steps: int, batch: int, minutes: float
) -> str:
    """The text for the heads in `folder`, whose drafts are right with these shares."""
    with safe_open(str(folder / "model.safetensors"), framework="np") as weights:
        names = weights.keys()
        parameters = sum(math.prod(weights.get_slice(name).get_shape()) for name in names)
    return _TEXT.format(
        name=f"{model}-medusa",
        model=model,
        k=len(shares),
        parameters=parameters / 1e6,
        megabytes=(folder / "model.safetensors").stat().st_size / 1e6,
        steps=steps,
        batch=batch,
        tokens=tokens,
        minutes=minutes,
        rows="\n".join(f"| {number} | {share:.1%} |" for number, share in enumerate(shares, start=1)),
    )
