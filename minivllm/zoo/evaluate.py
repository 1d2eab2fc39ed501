"""Measure a model on held-out questions by real generation: `python -m minivllm.zoo.evaluate --model tutor`.

Every answer is generated greedily by the engine of this package, all questions of a skill in one batch, and compared
with the one right answer, letter by letter. Where any answer will do, it has to end and to consist of whole words.
"""

import argparse
import json
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tokenizers import Tokenizer
from tqdm import tqdm

from minivllm import LLM, SamplingParams
from minivllm.zoo import names, path
from minivllm.zoo.cases import SKILLS, THRESHOLDS, Case, cases, token_ids
from minivllm.zoo.dialogue import Mixture, conversation, make_maker
from minivllm.zoo.lexicon import Lexicon, load_lexicon

_WORD = re.compile(r"[^\W\d_]+")
_MAX_TOKENS = 200


@dataclass(frozen=True)
class Score:
    """The result for one skill."""

    skill: str
    num_cases: int
    num_right: int
    longest_prompt: int  # tokens

    @property
    def percent(self) -> float:
        """Share of right answers."""
        return 100.0 * self.num_right / self.num_cases

    @property
    def asked(self) -> float | None:
        """The share of right answers asked for, in percent; None where nothing is asked."""
        return THRESHOLDS.get(self.skill)


@dataclass(frozen=True)
class Miss:
    """A wrong answer, for reading."""

    skill: str
    question: str
    wanted: str
    got: str


def known_words(lexicon: Lexicon, num_dialogues: int = 300) -> frozenset[str]:
    """Every word that answers are made of, in lower case: from the lexicon and from generated dialogues."""
    texts = [word for words in lexicon.words.values() for word in words]
    texts += [text for term in lexicon.terms for text in (*term.spellings, term.answer, term.answer_zh)]
    for index in range(num_dialogues):
        maker = make_maker(lexicon, f"words:{index}")
        texts += [exchange.assistant for exchange in conversation(maker, 256, Mixture())]
    return frozenset(word.lower() for text in texts for word in _WORD.findall(text))


def is_right(case: Case, text: str, has_ended: bool, known: frozenset[str]) -> bool:
    """Whether an answer counts: equal to the right one, or for open questions ended and made of whole words."""
    if not has_ended:
        return False
    if case.answer:
        return text.strip() == case.answer
    allowed = known | {word.lower() for word in _WORD.findall(case.question)}
    return bool(text.strip()) and all(word.lower() in allowed for word in _WORD.findall(text))


def measure(
    llm: LLM, tokenizer: Tokenizer, lexicon: Lexicon, skill: str, count: int, seed: int = 0
) -> tuple[Score, list[Miss]]:
    """Generate the answers to `count` cases of one skill and score them."""
    asked = list(cases(lexicon, skill, count, seed))
    prompts = [token_ids(tokenizer, case) for case in asked]
    outputs = llm.generate(prompts, SamplingParams(temperature=0, max_tokens=_MAX_TOKENS), use_tqdm=False)
    known = known_words(lexicon)
    misses = []
    for case, output in zip(asked, outputs, strict=True):
        answer = output.outputs[0]
        if not is_right(case, answer.text, answer.finish_reason == "stop", known):
            misses.append(Miss(skill, case.messages[-1][1], case.answer, answer.text))
    return Score(skill, count, count - len(misses), max(map(len, prompts))), misses


def table(scores: Sequence[Score]) -> str:
    """The scores as a Markdown table."""
    lines = ["| skill | right | asked | n | longest prompt |", "|---|---:|---:|---:|---:|"]
    for score in scores:
        asked = "" if score.asked is None else f"{score.asked:.0f} %"
        lines.append(
            f"| {score.skill} | {score.percent:.1f} % | {asked} | {score.num_cases} | {score.longest_prompt} |"
        )
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m minivllm.zoo.evaluate", description=__doc__)
    parser.add_argument("--model", default="tutor", help=f"a folder, or one of {', '.join(names())}")
    parser.add_argument("--n", type=int, default=100, help="questions per skill")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--skills", default=",".join(SKILLS), help="comma-separated")
    parser.add_argument("--json", type=Path, help="write the scores to this file")
    parser.add_argument("--show", type=int, default=0, help="print this many wrong answers of each skill")
    args = parser.parse_args()
    args.skills = args.skills.split(",")
    if unknown := sorted(set(args.skills) - set(SKILLS)):
        parser.error(f"--skills: no skill named {unknown[0]!r}; choose among {', '.join(SKILLS)}")
    return args


def main() -> None:
    """Print the accuracy of every skill."""
    args = _arguments()
    folder = path(args.model) if args.model in names() else Path(args.model)
    llm, scores, began = LLM(model=str(folder)), [], time.monotonic()
    lexicon, tokenizer = load_lexicon(), Tokenizer.from_file(str(folder / "tokenizer.json"))
    for skill in tqdm(args.skills, unit="skill"):
        score, misses = measure(llm, tokenizer, lexicon, skill, args.n, args.seed)
        scores.append(score)
        for miss in misses[: args.show]:
            tqdm.write(f"{miss.skill}: {miss.question!r}\n   wanted {miss.wanted!r}\n   got    {miss.got!r}")
    print(table(scores))
    print(f"{time.monotonic() - began:.0f} s")
    if args.json:
        rows = [asdict(score) | {"percent": score.percent, "asked": score.asked} for score in scores]
        args.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
