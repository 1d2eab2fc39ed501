"""Train the shipped models from nothing: `python -m minivllm.zoo.train --model tutor`.

The data comes from the seeded generator, step by step; the model is transformers' own Qwen3. A checkpoint holds
weights, optimizer state and the number of tokens seen, and training goes on from it as if it had never stopped.
On two CPU cores 14 million tokens take about an hour and a half; on a GPU, minutes.
"""

import argparse
import copy
import json
import os
import random
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch.nn import functional as F
from tqdm import tqdm
from transformers import Qwen3Config, Qwen3ForCausalLM

from minivllm.zoo.dialogue import SINGLES, Mixture
from minivllm.zoo.lexicon import Lexicon, load_lexicon
from minivllm.zoo.optim import make_optimizers
from minivllm.zoo.recipes import RECIPES, Recipe, learning_rate
from minivllm.zoo.rows import make_row
from minivllm.zoo.tokenizer import save_tokenizer, train_tokenizer


@dataclass
class Progress:
    """How far training has come, and the running loss of each skill."""

    step: int = 0
    tokens: int = 0
    losses: dict[str, float] = field(default_factory=dict)

    def note(self, skill: str, loss: float) -> None:
        """Fold one step's loss of a skill into its running mean."""
        self.losses[skill] = 0.9 * self.losses.get(skill, loss) + 0.1 * loss


class Trainer:
    """One model in training: weights, optimizers, data and where it stands."""

    def __init__(
        self, recipe: Recipe, tokenizer: Tokenizer, lexicon: Lexicon, device: str = "cpu", seed: int = 0, workers: int = 1
    ):
        torch.manual_seed(seed)
        self.recipe, self.tokenizer, self.lexicon = recipe, tokenizer, lexicon
        self.device, self.seed, self.mixture = device, seed, Mixture()
        self.model = Qwen3ForCausalLM(Qwen3Config(**recipe.hf_config())).to(device)
        self.replicas = [self.model] + [_replica(self.model) for _ in range(workers - 1)]
        self.pool = ThreadPoolExecutor(workers)
        self.optimizers = make_optimizers(self.model, recipe.matrix_lr, recipe.other_lr, self.pool)
        self.progress = Progress()

    def row_length(self) -> int:
        """Length of this step's rows, drawn by the plan of lengths."""
        share = self.progress.tokens / self.recipe.tokens
        lengths = [lengths for start, lengths in self.recipe.lengths if share >= start][-1]
        rng = random.Random(f"{self.seed}:length:{self.progress.step}")
        return rng.choices(list(lengths), list(lengths.values()))[0]

    def batch(self, length: int) -> tuple[torch.Tensor, list[list[str]]]:
        """Token ids [rows, length + 1] of this step and the skill of every token."""
        mixture = self.mixture
        if length >= 1024:  # long rows are mostly there for long texts
            mixture = replace(mixture, themes={"lookup": 0.75, "mixed": 0.25}, text=0.01)
        seeds = [f"{self.seed}:{self.progress.step}:{row}" for row in range(max(1, self.recipe.tokens_per_step // length))]
        rows = [make_row(self.lexicon, self.tokenizer, seed, length + 1, mixture) for seed in seeds]
        return torch.tensor([row.ids for row in rows]), [row.skills for row in rows]

    def step(self) -> float:
        """One optimizer step. Returns the mean loss over the answers' tokens."""
        ids, skills = self.batch(self.row_length())
        factor = learning_rate(self.progress.step, self.progress.tokens / self.recipe.tokens)
        for optimizer, rate in zip(self.optimizers, (self.recipe.matrix_lr, self.recipe.other_lr), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
        losses = self._backward(ids, skills)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self._count(losses, [skill for row in skills for skill in row[1:] if skill])
        self.progress.step += 1
        self.progress.tokens += ids[:, 1:].numel()
        return float(losses.mean())

    def _backward(self, ids: torch.Tensor, skills: list[list[str]]) -> torch.Tensor:
        """Gradients of the mean loss, the rows dealt out to the workers. Returns the loss of each answer's token."""
        total = sum(bool(skill) for row in skills for skill in row[1:])
        parts = torch.arange(len(skills)).tensor_split(len(self.replicas))
        jobs = [
            self.pool.submit(_gradients, replica, ids[part].to(self.device), [skills[row] for row in part], total)
            for replica, part in zip(self.replicas, parts, strict=True)
            if len(part)
        ]
        losses = torch.cat([job.result() for job in jobs])
        for replica in self.replicas[1 : len(jobs)]:  # in order, so that the sum is the same every time
            for weight, copied in zip(self.model.parameters(), replica.parameters(), strict=True):
                weight.grad.add_(copied.grad)  # type: ignore[union-attr]
        return losses

    def _count(self, losses: torch.Tensor, skills: list[str]) -> None:
        by_skill: dict[str, list[float]] = defaultdict(list)
        for value, skill in zip(losses.tolist(), skills, strict=True):
            by_skill[skill].append(value)
        for skill, values in by_skill.items():
            self.progress.note(skill, sum(values) / len(values))

    def save(self, folder: Path) -> None:
        """Write a checkpoint: weights, optimizer states, tokenizer, and where training stands."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: tensor.contiguous() for name, tensor in self.model.state_dict().items() if name != "lm_head.weight"}
        save_file(weights, folder / "weights.partial")
        torch.save([optimizer.state_dict() for optimizer in self.optimizers], folder / "optimizer.partial")
        (folder / "progress.json").write_text(json.dumps(vars(self.progress)))
        os.replace(folder / "weights.partial", folder / "weights.safetensors")
        os.replace(folder / "optimizer.partial", folder / "optimizer.pt")
        save_tokenizer(self.tokenizer, folder, self.recipe.max_len)

    def load(self, folder: Path) -> None:
        """Go on from a checkpoint written by `save`."""
        self.model.load_state_dict(load_file(folder / "weights.safetensors"), strict=False)
        states = torch.load(folder / "optimizer.pt", weights_only=True, map_location=self.device)
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)
        self.progress = Progress(**json.loads((folder / "progress.json").read_text()))


def _replica(model: Qwen3ForCausalLM) -> Qwen3ForCausalLM:
    """The same weights with gradients of their own, for a second thread."""
    replica = copy.deepcopy(model)
    for mine, shared in zip(replica.parameters(), model.parameters(), strict=True):
        mine.data = shared.data
    return replica


def _gradients(model: Qwen3ForCausalLM, ids: torch.Tensor, skills: list[list[str]], total: int) -> torch.Tensor:
    """Gradients of sum(loss) / total on rows `ids` [rows, length + 1]. Returns the loss of each answer's token."""
    flat = [skill for row in skills for skill in row[1:]]
    chosen = torch.tensor([index for index, skill in enumerate(flat) if skill], device=ids.device)
    hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state  # [rows, length, hidden]
    logits = model.lm_head(hidden.flatten(0, 1)[chosen]).float()  # only where something is to be learned
    losses = F.cross_entropy(logits, ids[:, 1:].flatten()[chosen], reduction="none")
    model.zero_grad()
    (losses.sum() / total).backward()
    return losses.detach().cpu()


def report(progress: Progress) -> str:
    """One line: the running loss of every skill, worst first."""
    worst = sorted(progress.losses.items(), key=lambda item: -item[1])
    return f"step {progress.step} tokens {progress.tokens / 1e6:.2f}M  " + " ".join(f"{name} {loss:.3f}" for name, loss in worst)


def run(trainer: Trainer, out: Path, save_every: float, report_every: int = 50) -> None:
    """Train to the recipe's end, with a checkpoint every `save_every` seconds; Ctrl-C leaves one too."""
    saved = time.monotonic()
    total, start = trainer.recipe.tokens, trainer.progress.tokens
    bar = tqdm(total=total, initial=start, unit="tok", unit_scale=True, mininterval=10)
    try:
        while trainer.progress.tokens < total:
            loss = trainer.step()
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update(trainer.progress.tokens - bar.n)
            if trainer.progress.step % report_every == 0:
                bar.write(report(trainer.progress))
            if time.monotonic() - saved > save_every:
                trainer.save(out)
                saved = time.monotonic()
    except KeyboardInterrupt:
        bar.write("stopped; go on with --resume")
    finally:
        bar.close()
    trainer.save(out)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m minivllm.zoo.train", description=__doc__)
    parser.add_argument("--model", choices=sorted(RECIPES), default="tutor")
    parser.add_argument("--tokens", type=float, help="train on this many tokens in all (default: the recipe's)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--out", type=Path, help="folder of checkpoints (default: ./zoo-MODEL)")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    parser.add_argument("--tokenizer", type=Path, help="use this tokenizer.json instead of training one")
    parser.add_argument("--workers", type=int, default=1, help="threads, each on its own rows; on a busy CPU better than 1")
    parser.add_argument("--save-every", type=float, default=180.0, help="seconds between checkpoints")
    parser.add_argument("--mix", default="", help="weights of single scenes, such as sort_words=9,unknown=4")
    return parser.parse_args()


def _mixture(text: str) -> Mixture:
    """The default mixture with some weights replaced, from the text of --mix."""
    singles = Mixture().singles
    for part in filter(None, text.split(",")):
        name, _, weight = part.partition("=")
        if name not in SINGLES:
            raise ValueError(f"--mix: no scene named {name!r}; choose among {', '.join(SINGLES)}")
        singles[name] = float(weight)
    return Mixture(singles=singles)


def main() -> None:
    """Train one model and leave its checkpoint in --out."""
    args = _arguments()
    out = args.out or Path(f"zoo-{args.model}")
    recipe = RECIPES[args.model]
    if args.tokens:
        recipe = replace(recipe, tokens=int(args.tokens))
    lexicon = load_lexicon()
    source = args.tokenizer or (out / "tokenizer.json" if args.resume else None)
    tokenizer = Tokenizer.from_file(str(source)) if source else train_tokenizer(lexicon)
    trainer = Trainer(recipe, tokenizer, lexicon, args.device, workers=args.workers)
    trainer.mixture = _mixture(args.mix)
    if args.resume:
        trainer.load(out)
    run(trainer, out, args.save_every)


if __name__ == "__main__":
    main()
