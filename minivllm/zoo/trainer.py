"""One model in training: its data, one step, and checkpoints. Not here: the loop around it (train.py)."""

import copy
import json
import os
import random
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch.nn import functional as F
from transformers import Qwen3Config, Qwen3ForCausalLM

from minivllm.zoo.dialogue import Mixture
from minivllm.zoo.lexicon import Lexicon
from minivllm.zoo.optim import make_optimizers
from minivllm.zoo.recipes import Recipe, learning_rate
from minivllm.zoo.rows import make_row
from minivllm.zoo.tokenizer import save_tokenizer


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
        self,
        recipe: Recipe,
        tokenizer: Tokenizer,
        lexicon: Lexicon,
        device: str = "cpu",
        seed: int = 0,
        workers: int = 1,
        is_mixed: bool = False,
    ):
        torch.manual_seed(seed)
        self.recipe, self.tokenizer, self.lexicon = recipe, tokenizer, lexicon
        self.device, self.seed, self.mixture, self.is_mixed = device, seed, Mixture(), is_mixed
        self.model = Qwen3ForCausalLM(Qwen3Config(**recipe.hf_config()))
        self.model.to(torch.device(device))  # type: ignore[arg-type]
        self.replicas = [self.model] + [_replica(self.model) for _ in range(workers - 1)]
        self.pool = ThreadPoolExecutor(workers)
        if is_mixed and workers == 1:  # compiled for each length of rows; threads cannot share the compiler
            self.model.model.compile(dynamic=False)
        self.optimizers = make_optimizers(self.model, recipe.matrix_lr, recipe.other_lr, self.pool, is_mixed)
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
        if length >= 512:  # long rows are mostly there for long texts
            mixture = replace(mixture, themes={"lookup": 0.75, "mixed": 0.25}, text=0.01)
        num_rows = max(1, self.recipe.tokens_per_step // length)
        seeds = [f"{self.seed}:{self.progress.step}:{row}" for row in range(num_rows)]
        rows = [make_row(self.lexicon, self.tokenizer, seed, length + 1, mixture) for seed in seeds]
        return torch.tensor([row.ids for row in rows]), [row.skills for row in rows]

    def step(self) -> float:
        """One optimizer step. Returns the mean loss over the answers' tokens."""
        ids, skills = self.batch(self.row_length())
        factor = learning_rate(self.progress.step, self.progress.tokens / self.recipe.tokens)
        for optimizer, rate in zip(
            self.optimizers, (self.recipe.matrix_lr, self.recipe.other_lr), strict=True
        ):
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
            self.pool.submit(
                _gradients,
                replica,
                ids[part].to(self.device),
                [skills[row] for row in part],
                total,
                self.is_mixed,
            )
            for replica, part in zip(self.replicas, parts, strict=True)
            if len(part)
        ]
        losses = torch.cat([job.result() for job in jobs])
        for replica in self.replicas[1 : len(jobs)]:  # in order, so that the sum is the same every time
            for weight, copied in zip(self.model.parameters(), replica.parameters(), strict=True):
                assert weight.grad is not None and copied.grad is not None
                weight.grad += copied.grad
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
        weights = {name: tensor.contiguous() for name, tensor in self.model.state_dict().items()}
        del weights["lm_head.weight"]  # tied to the embedding
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


def _gradients(
    model: Qwen3ForCausalLM, ids: torch.Tensor, skills: list[list[str]], total: int, is_mixed: bool
) -> torch.Tensor:
    """Gradients of sum(loss) / total on rows `ids` [rows, length + 1]. Returns the loss of each answer's token."""
    flat = [skill for row in skills for skill in row[1:]]
    chosen = torch.tensor([index for index, skill in enumerate(flat) if skill], device=ids.device)
    # Plain attention is faster than the fused one on short rows, whose [length, length] scores fit the cache.
    model.config._attn_implementation = "eager" if is_mixed and ids.size(1) <= 513 else "sdpa"
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=is_mixed):
        hidden = model.model(
            input_ids=ids[:, :-1], use_cache=False
        ).last_hidden_state  # [rows, length, hidden]
        logits = model.lm_head(hidden.flatten(0, 1)[chosen]).float()  # only where something is to be learned
    losses = F.cross_entropy(logits, ids[:, 1:].flatten()[chosen], reduction="none")
    model.zero_grad()
    (losses.sum() / total).backward()
    return losses.detach().cpu()


def report(progress: Progress) -> str:
    """One line: the running loss of every skill, worst first."""
    worst = sorted(progress.losses.items(), key=lambda item: -item[1])
    losses = " ".join(f"{name} {loss:.3f}" for name, loss in worst)
    return f"step {progress.step} tokens {progress.tokens / 1e6:.2f}M  {losses}"
