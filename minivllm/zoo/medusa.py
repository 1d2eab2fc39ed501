"""Train heads that draft for a shipped model from its own hidden states: `python -m minivllm.zoo.medusa`.

The model reads generated conversations once. At every position inside an answer its hidden state is kept, and what it
says itself there and at the next few positions: that is what the heads are to foresee. A head's guess counts only
where all tokens before it are the model's own choice, as nobody looks at a draft behind a wrong one. Then the heads are
trained on these states alone; the model, and its output matrix, which they share, stay as they are.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm
from transformers import Qwen3ForCausalLM

from minivllm.spec_decode.medusa import MedusaHeads
from minivllm.zoo import path
from minivllm.zoo.dialogue import Mixture
from minivllm.zoo.lexicon import load_lexicon
from minivllm.zoo.medusa_card import card
from minivllm.zoo.recipes import learning_rate
from minivllm.zoo.rows import make_row

NUM_HEADS = 4
ROW_LENGTH, ROWS_AT_ONCE = 512, 4
BATCH_SIZE, LEARNING_RATE = 256, 3e-3
HELD_OUT = 0.05  # of the rows: not trained on, measured at the end
# More prose and fewer word games than the model itself was trained on: there is more to foresee.
SHARES = {"story": 10.0, "continuation": 4.0, "glossary": 12.0, "listed_words": 8.0, "other_words": 8.0}


@dataclass(frozen=True)
class Positions:
    """Positions inside answers, and what heads are to say there."""

    hidden: Tensor  # [n, hidden] the state that a token was drawn from
    token: Tensor  # [n] that token
    wanted: Tensor  # [n, k] what the model says behind it, one token after the other
    counts: Tensor  # [n, k] bool: the answer goes on so far, and all tokens before are the model's own choice


def positions_of(ids: Tensor, is_answer: Tensor, hidden: Tensor, said: Tensor, k: int) -> Positions:
    """What can be learned from some rows that the model has read.

    Args:
        ids: [rows, length] the tokens.
        is_answer: [rows, length] bool: the token belongs to an answer.
        hidden: [rows, length, hidden] the model's last hidden state at each.
        said: [rows, length] its favourite token behind each.
        k: heads.
    """
    n = ids.shape[1] - 1 - k
    is_own = F.pad(ids[:, 1:] == said[:, :-1], (1, 0))  # the token is what the model would have said
    goes_on = is_answer[:, 1 : n + 1]
    counts = []
    for head in range(k):
        goes_on = goes_on & is_answer[:, 2 + head : 2 + head + n]
        if head:
            goes_on = goes_on & is_own[:, 1 + head : 1 + head + n]
        counts.append(goes_on)
    wanted = torch.stack([said[:, 1 + head : 1 + head + n] for head in range(k)], dim=-1)
    keep = counts[0]
    return Positions(
        hidden[:, :n][keep], ids[:, 1 : n + 1][keep], wanted[keep], torch.stack(counts, dim=-1)[keep]
    )


def read_rows(
    model: Qwen3ForCausalLM, tokenizer: Tokenizer, num_tokens: int, seed: int
) -> Iterator[Positions]:
    """Let the model read so many tokens of generated conversations, a few rows at a time."""
    lexicon, mixture = load_lexicon(), Mixture(text=0.0)
    mixture = replace(mixture, singles=mixture.singles | SHARES)
    for step in tqdm(range(-(-num_tokens // (ROW_LENGTH * ROWS_AT_ONCE))), unit="batch", mininterval=10):
        seeds = [f"medusa:{seed}:{step}:{row}" for row in range(ROWS_AT_ONCE)]
        rows = [make_row(lexicon, tokenizer, one, ROW_LENGTH, mixture) for one in seeds]
        ids = torch.tensor([row.ids for row in rows])
        is_answer = torch.tensor([[bool(skill) for skill in row.skills] for row in rows])
        with torch.inference_mode():
            hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
            said = model.lm_head(hidden).argmax(-1)
        yield positions_of(ids, is_answer, hidden.half(), said, NUM_HEADS)


def join(parts: list[Positions]) -> Positions:
    """All positions in one."""
    return Positions(
        *(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Positions))
    )


def train(heads: MedusaHeads, embedding: Tensor, data: Positions, num_steps: int, seed: int = 0) -> None:
    """Cross-entropy against what the model says, over the tokens that answers are made of. embedding [V, hidden]."""
    vocabulary, wanted = torch.unique(data.wanted, return_inverse=True)
    output = embedding[vocabulary].T.contiguous()  # [hidden, V']
    optimizer = torch.optim.AdamW(heads.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.01)
    generator = torch.Generator().manual_seed(seed)
    bar = tqdm(range(num_steps), unit="step", mininterval=10)
    for step in bar:
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * learning_rate(step, step / num_steps)
        chosen = torch.randint(len(data.token), (BATCH_SIZE,), generator=generator)
        said = heads(data.hidden[chosen].float(), embedding[data.token[chosen]], wanted.shape[1])
        counts = data.counts[chosen].T  # [k, batch]
        loss = F.cross_entropy(said[counts] @ output, wanted[chosen].T[counts])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)


@torch.inference_mode()
def agreement(heads: MedusaHeads, embedding: Tensor, data: Positions) -> list[float]:
    """For each head how often its draft is right where it is looked at: where all drafts before it were right."""
    k = data.wanted.shape[1]
    right, looked_at = torch.zeros(k), torch.zeros(k)
    for part in torch.arange(len(data.token)).split(1024):
        said = heads(data.hidden[part].float(), embedding[data.token[part]], k) @ embedding.T
        is_right = (data.wanted[part] == said.argmax(-1).T) & data.counts[part]
        all_right = is_right.long().cumprod(-1).bool()
        before = F.pad(all_right[:, :-1], (1, 0), value=True) & data.counts[part]
        right += all_right.sum(0)
        looked_at += before.sum(0)
    return (right / looked_at).tolist()


def save(heads: MedusaHeads, folder: Path, vocab_size: int) -> None:
    """Write config.json and the weights, in bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    k, hidden_size, _ = heads.blocks.shape
    config = {
        "architectures": ["MedusaModel"],
        "model_type": "medusa",
        "hidden_size": hidden_size,
        "vocab_size": vocab_size,
        "num_heads": k,
        "dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    weights = {name: weight.detach().to(torch.bfloat16) for name, weight in heads.named_parameters()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m minivllm.zoo.medusa", description=__doc__)
    parser.add_argument("--model", default="tutor", help="draft for this shipped model (default: tutor)")
    parser.add_argument("--out", type=Path, help="folder to write (default: ./zoo-MODEL-medusa)")
    parser.add_argument("--tokens", type=int, default=350_000, help="tokens that it reads (default: 350,000)")
    parser.add_argument("--steps", type=int, default=6_000, help="of training (default: 6,000)")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Read, train, measure, write."""
    args = _arguments()
    began = time.monotonic()
    model = Qwen3ForCausalLM.from_pretrained(path(args.model), dtype=torch.float32).eval()
    tokenizer = Tokenizer.from_file(str(path(args.model) / "tokenizer.json"))
    parts = list(read_rows(model, tokenizer, args.tokens, args.seed))
    num_held_out = max(1, int(HELD_OUT * len(parts)))
    embedding = model.lm_head.weight.detach()
    heads = MedusaHeads(NUM_HEADS, embedding.shape[1])
    train(heads, embedding, join(parts[num_held_out:]), args.steps, args.seed)
    shares = agreement(heads, embedding, join(parts[:num_held_out]))
    out = args.out or Path(f"zoo-{args.model}-medusa")
    save(heads, out, len(embedding))
    minutes = (time.monotonic() - began) / 60
    text = card(out, args.model, shares, args.tokens, args.steps, BATCH_SIZE, minutes)
    (out / "README.md").write_text(text, encoding="utf-8")
    print(f"agreement of drafts 1 to {NUM_HEADS}:", *(f"{share:.3f}" for share in shares))


if __name__ == "__main__":
    main()
