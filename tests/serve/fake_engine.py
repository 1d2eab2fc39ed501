"""A stand-in for LLMEngine with its interface: one token is one character, the answer is known beforehand.

It counts blocks like the real one (so that a leak shows), can be slow, and dies on command.
"""

import threading
import time
from dataclasses import dataclass, field
from types import SimpleNamespace

from minivllm.outputs import CompletionOutput, EngineStats, RequestMetrics, RequestOutput
from minivllm.sampling_params import RequestOutputKind, SamplingParams

NUM_BLOCKS, BLOCK_SIZE, MAX_MODEL_LEN = 256, 16, 512
IM_END = 1114112  # the end-of-sequence id, one past the last code point
DEADLY = "DIE NOW"


def answer_to(prompt: str) -> str:
    """What the fake model says: its oracle for every test."""
    question = prompt.split("[user]")[-1].split("[assistant]")[0].strip()
    return f"You said «{question}», 你好 🙂."


class FakeTokenizer:
    """One token per character; what apply_chat_template writes can be read by `answer_to`."""

    chat_template = "fake"
    vocab_size = IM_END + 1

    def __len__(self) -> int:
        return IM_END + 1

    def get_vocab(self) -> dict[str, int]:
        return {"a": 97, "<end>": IM_END}

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [ord(character) for character in text]

    def decode(self, token_ids, skip_special_tokens: bool = False) -> str:
        return "".join("" if i == IM_END else chr(i) for i in token_ids)

    def convert_ids_to_tokens(self, token_ids) -> list[str]:
        return ["<end>" if i == IM_END else chr(i) for i in token_ids]

    def apply_chat_template(self, messages, tokenize=True, add_generation_prompt=False, **kwargs) -> str:
        assert not tokenize
        text = "".join(f"[{message['role']}] {message['content']} " for message in messages)
        return text + ("[assistant] " if add_generation_prompt else "")


@dataclass
class _Running:
    prompt: str | None
    prompt_token_ids: list[int]
    params: SamplingParams
    answer: str
    max_tokens: int
    metrics: RequestMetrics
    token_ids: list[int] = field(default_factory=list)

    @property
    def num_blocks(self) -> int:
        return -(-(len(self.prompt_token_ids) + len(self.token_ids)) // BLOCK_SIZE)


class FakeEngine:
    """LLMEngine's interface over a model that repeats what it was asked, one character in each step."""

    def __init__(self, step_seconds: float = 0.0) -> None:
        self.step_seconds = step_seconds
        self.tokenizer = FakeTokenizer()
        self.max_model_len = MAX_MODEL_LEN
        self.config = SimpleNamespace(
            model="fake",
            block_size=BLOCK_SIZE,
            kv_cache_dtype="auto",
            enable_prefix_caching=False,
            max_logprobs=20,
            max_num_seqs=256,
            data_parallel_size=1,
        )
        self.model_config = SimpleNamespace(
            vocab_size=IM_END + 1,
            generation_defaults={"temperature": 0.5, "top_k": 7, "eos_token_id": IM_END},
        )
        self.seen: list[SamplingParams] = []
        self.threads: set[int] = set()
        self.aborted: list[str] = []
        self.steps_before_death: int | None = None
        self.is_shut_down = False
        self._requests: dict[str, _Running] = {}
        self._totals = [0, 0]
        self._num_step_tokens = 0
        self.most_running = 0
        self._finished: dict[str, int] = {}

    def add_request(self, request_id, prompt, sampling_params=None, *, priority=0, cache_salt=None):
        self._note_thread()
        params = sampling_params or SamplingParams()
        if isinstance(prompt, dict):
            prompt = prompt.get("prompt", prompt.get("prompt_token_ids"))
        if not isinstance(prompt, str) and not all(0 <= i <= IM_END for i in prompt):
            raise ValueError(f"prompt must have token ids in [0, {IM_END}]")
        text = prompt if isinstance(prompt, str) else self.tokenizer.decode(prompt)
        ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
        if not ids:
            raise ValueError("prompt must not be empty")
        if not isinstance(params, SamplingParams):
            raise ValueError(f"{type(params).__name__} are not known to the fake engine")
        if params.n > 1:
            raise ValueError("n must be 1: several outputs of one prompt are not served yet")
        if params.logprobs is not None:
            raise ValueError("logprobs are not served yet")
        if request_id in self._requests:
            raise ValueError(f"request_id {request_id!r} is in use")
        if len(ids) >= MAX_MODEL_LEN:
            raise ValueError(f"prompt has {len(ids)} tokens, more than fit")
        room = MAX_MODEL_LEN - len(ids)
        max_tokens = min(room, params.max_tokens or room)
        metrics = RequestMetrics(arrival_time=time.monotonic())
        self.seen.append(params)
        self._requests[request_id] = _Running(
            prompt if isinstance(prompt, str) else None, ids, params, answer_to(text), max_tokens, metrics
        )
        if DEADLY in text:
            self.steps_before_death = 0

    def abort_request(self, request_ids) -> None:
        self._note_thread()
        for request_id in [request_ids] if isinstance(request_ids, str) else request_ids:
            if self._requests.pop(request_id, None) is not None:
                self.aborted.append(request_id)

    def check_health(self) -> None:
        """There is no process that could be gone."""

    def check_integrity(self) -> None:
        """There is no block that could be lost."""

    def shutdown(self) -> None:
        self.is_shut_down = True

    def has_unfinished_requests(self) -> bool:
        return bool(self._requests)

    def step(self) -> list[RequestOutput]:
        self._note_thread()
        if self.steps_before_death is not None:
            self.steps_before_death -= 1
            if self.steps_before_death < 0:
                raise RuntimeError("boom in /secret/place/model.py")
        if self.step_seconds:
            time.sleep(self.step_seconds)
        self.most_running = max(self.most_running, len(self._requests))
        self._num_step_tokens = sum(
            1 if running.token_ids else len(running.prompt_token_ids) for running in self._requests.values()
        )
        outputs = [self._advance(request_id, running) for request_id, running in list(self._requests.items())]
        return [output for output in outputs if output is not None]

    def stats(self) -> EngineStats:
        used = sum(running.num_blocks for running in self._requests.values())
        return EngineStats(
            num_running_reqs=len(self._requests),
            kv_cache_usage=used / (NUM_BLOCKS - 1),
            num_gpu_blocks=NUM_BLOCKS,
            num_free_blocks=NUM_BLOCKS - 1 - used,
            num_prompt_tokens=self._totals[0],
            num_generation_tokens=self._totals[1],
            num_step_tokens=self._num_step_tokens,
            finished=dict(self._finished),
        )

    def _note_thread(self) -> None:
        self.threads.add(threading.get_ident())

    def _advance(self, request_id: str, running: _Running) -> RequestOutput | None:
        now = time.monotonic()
        if not running.token_ids:
            running.metrics.first_scheduled_time = running.metrics.first_token_time = now
            self._totals[0] += len(running.prompt_token_ids)
        self._totals[1] += 1
        position = len(running.token_ids)
        params = running.params
        ends = position >= len(running.answer) and not params.ignore_eos
        running.token_ids.append(IM_END if ends else ord(running.answer[position % len(running.answer)]))
        reason = "stop" if ends else "length" if len(running.token_ids) >= running.max_tokens else None
        if reason:
            running.metrics.finished_time = now
            self._finished[reason] = self._finished.get(reason, 0) + 1
            del self._requests[request_id]
        if params.output_kind is RequestOutputKind.FINAL_ONLY and not reason:
            return None
        shown = (
            running.token_ids[-1:]
            if params.output_kind is RequestOutputKind.DELTA
            else list(running.token_ids)
        )
        choice = CompletionOutput(0, self.tokenizer.decode(shown), shown, finish_reason=reason)
        return RequestOutput(
            request_id,
            running.prompt,
            running.prompt_token_ids,
            [choice],
            bool(reason),
            metrics=running.metrics,
        )
