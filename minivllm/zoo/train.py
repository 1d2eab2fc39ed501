"""Train the shipped models from nothing: `python -m minivllm.zoo.train --model tutor`.

The data comes from the seeded generator, step by step; the model is transformers' own Qwen3. A checkpoint holds
weights, optimizer state and the number of tokens seen, and training goes on from it as if it had never stopped.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

from tokenizers import Tokenizer
from tqdm import tqdm

from minivllm.hardware import has_bfloat16_units
from minivllm.zoo.dialogue import SINGLES, Mixture
from minivllm.zoo.lexicon import load_lexicon
from minivllm.zoo.recipes import RECIPES
from minivllm.zoo.tokenizer import train_tokenizer
from minivllm.zoo.trainer import Trainer, report


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
    parser.add_argument(
        "--tokens", type=float, help="train on this many tokens in all (default: the recipe's)"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--out", type=Path, help="folder of checkpoints (default: ./zoo-MODEL)")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    parser.add_argument("--tokenizer", type=Path, help="use this tokenizer.json instead of training one")
    parser.add_argument(
        "--workers", type=int, default=1, help="threads, each on its own rows (with OMP_NUM_THREADS=1)"
    )
    parser.add_argument(
        "--dtype",
        choices=["auto", "float32", "bfloat16"],
        default="auto",
        help="of the products (bfloat16 with compiled layers); auto: bfloat16 where the hardware has units for it",
    )
    parser.add_argument("--save-every", type=float, default=180.0, help="seconds between checkpoints")
    parser.add_argument("--mix", default="", help="weights of single scenes, such as glossary=12,unknown=4")
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
    is_mixed = args.dtype == "bfloat16" or (args.dtype == "auto" and has_bfloat16_units(args.device))
    trainer = Trainer(recipe, tokenizer, lexicon, args.device, workers=args.workers, is_mixed=is_mixed)
    trainer.mixture = _mixture(args.mix)
    if args.resume:
        trainer.load(out)
    run(trainer, out, args.save_every)


if __name__ == "__main__":
    main()
