"""LLM: the offline front door. A list of prompts in, the same list of answers out, batched as the KV cache allows."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from tqdm import tqdm

from minivllm.config import EngineConfig
from minivllm.data_parallel import make_engine
from minivllm.fast_tokenizer import FastTokenizer
from minivllm.input_processor import Prompt
from minivllm.outputs import EmbeddingRequestOutput, RequestOutput
from minivllm.parts import REFERENCE, Parts
from minivllm.pooling_params import PoolingParams
from minivllm.presets import preset_arguments
from minivllm.sampling_params import BeamSearchParams, RequestOutputKind, SamplingParams, sampling_defaults
from minivllm.vllm_arguments import check_refused, engine_arguments

Message = Mapping[str, Any]  # {"role": "user", "content": "..."}
MESSAGE_KEYS = ("role", "content")


class LLM:
    """A model with its engine.

    Args:
        model: the name of a shipped model (`tutor`), a Hugging Face folder, or a hub id.
        parts: what replaces parts of the engine, see `minivllm.parts`.
        preset: general, low-latency or high-throughput, see `minivllm.presets`.
        chat_template: Jinja text for `chat`; None = the tokenizer's own.
        **engine_args: any field of `EngineConfig`. Other arguments of vLLM get a warning or a refusal.

    Raises:
        ValueError: an argument is out of range, is not served, or does not suit the model.

    Example:
        >>> LLM("tutor").generate("Once upon a time", SamplingParams(max_tokens=20))[0].outputs[0].text
    """

    def __init__(
        self,
        model: str = "tutor",
        *,
        parts: Parts = REFERENCE,
        preset: str | None = None,
        chat_template: str | None = None,
        **engine_args: Any,
    ) -> None:
        _log_as_the_environment_says()
        known = EngineConfig.__dataclass_fields__
        arguments = engine_arguments({"model": str(model), **engine_args}, known)
        if preset is not None:
            arguments = preset_arguments(preset, arguments)
        self.llm_engine = make_engine(EngineConfig(**arguments), parts)
        self._chat_template = chat_template
        self._num_calls = 0

    def get_tokenizer(self) -> Any:
        """The Hugging Face tokenizer; None if the model folder has none."""
        tokenizer = self.llm_engine.tokenizer
        return tokenizer.whole if isinstance(tokenizer, FastTokenizer) else tokenizer

    def get_default_sampling_params(self) -> SamplingParams:
        """What the model's generation_config.json recommends, over the defaults of SamplingParams."""
        return SamplingParams(**sampling_defaults(self.llm_engine.model_config.generation_defaults))

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        lora_request: object | None = None,
        priority: Sequence[int] | None = None,
    ) -> list[RequestOutput]:
        """Complete prompts; the outputs come in the order of the prompts.

        Args:
            prompts: one prompt or a list; each is text, token ids, or a dict with `prompt` or `prompt_token_ids`.
            sampling_params: one for all, or one for each; None = `get_default_sampling_params()`.
            use_tqdm: show a progress bar.
            lora_request: vLLM's; refused unless None.
            priority: one number for each prompt, lower is earlier.

        Raises:
            ValueError: a prompt or parameter does not suit; no prompt was run.
        """
        if lora_request is not None:
            check_refused("enable_lora", "lora_request", lora_request)
        prompt_list = _as_list(prompts)
        params = self._one_for_each(sampling_params, len(prompt_list))
        if priority is not None and len(priority) != len(prompt_list):
            raise ValueError(f"priority has {len(priority)} entries for {len(prompt_list)} prompts")
        final = [one.with_output_kind(RequestOutputKind.FINAL_ONLY) for one in params]
        return self._complete(prompt_list, final, priority or [0] * len(prompt_list), use_tqdm)

    def embed(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        pooling_params: PoolingParams | None = None,
        use_tqdm: bool = True,
    ) -> list[EmbeddingRequestOutput]:
        """One vector of length 1 for each text: `output.outputs.embedding`.

        Raises:
            ValueError: a prompt does not suit; no prompt was run.
        """
        prompt_list = _as_list(prompts)
        params = pooling_params or PoolingParams()
        return self._complete(prompt_list, [params] * len(prompt_list), [0] * len(prompt_list), use_tqdm)

    encode = embed  # the name that older documents use

    def beam_search(
        self, prompts: Prompt | Sequence[Prompt], params: BeamSearchParams, *, use_tqdm: bool = False
    ) -> list[RequestOutput]:
        """The `beam_width` most likely continuations of each prompt, the best first, by beam search on shared blocks.

        Raises:
            ValueError: a prompt or parameter does not suit, or the beams cannot all be held at once.
        """
        prompt_list = _as_list(prompts)
        return self._complete(prompt_list, [params] * len(prompt_list), [0] * len(prompt_list), use_tqdm)

    def _complete(
        self,
        prompts: Sequence[Prompt],
        params: Sequence[SamplingParams | BeamSearchParams | PoolingParams],
        priority: Sequence[int],
        use_tqdm: bool,
    ) -> list[Any]:
        self._num_calls += 1
        ids = [f"{self._num_calls}-{index}" for index in range(len(prompts))]
        try:
            for request_id, prompt, one, urgency in zip(ids, prompts, params, priority, strict=True):
                self.llm_engine.add_request(request_id, prompt, one, priority=urgency)
            outputs = self._run(len(ids), use_tqdm)
        except BaseException:  # also Ctrl-C in a notebook: leave no half-run request behind
            self.llm_engine.abort_request(ids)
            raise
        return [outputs[request_id] for request_id in ids]

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
    ) -> list[RequestOutput]:
        """Answer one conversation, or a list of them.

        Raises:
            ValueError: the model has no chat template, a message is malformed, or as `generate`.
        """
        if not isinstance(messages, Sequence) or not messages or not all(messages):
            raise ValueError("messages is empty, or no list: give at least one {'role': ..., 'content': ...}")
        conversations = [messages] if isinstance(messages[0], Mapping) else list(messages)
        prompts = [
            {"prompt_token_ids": self._render(conversation, chat_template, add_generation_prompt)}
            for conversation in conversations
        ]
        return self.generate(prompts, sampling_params, use_tqdm=use_tqdm)

    def reset_prefix_cache(self) -> bool:
        """Forget cached blocks; False while requests hold blocks."""
        return self.llm_engine.reset_prefix_cache()

    def _render(self, messages: Any, chat_template: str | None, add_generation_prompt: bool) -> list[int]:
        tokenizer = self.llm_engine.tokenizer
        chat_template = chat_template or self._chat_template
        if tokenizer is None or not (chat_template or tokenizer.chat_template):
            raise ValueError(
                "chat needs a chat template, and this model's tokenizer has none: pass chat_template"
            )
        if not isinstance(messages, Sequence):
            raise ValueError("every message must be a dict with strings for 'role' and 'content'")
        for message in messages:
            if not isinstance(message, Mapping) or not all(
                isinstance(message.get(k), str) for k in MESSAGE_KEYS
            ):
                raise ValueError("every message must be a dict with strings for 'role' and 'content'")
        text = tokenizer.apply_chat_template(
            list(messages),
            chat_template=chat_template,
            add_generation_prompt=add_generation_prompt,
            tokenize=False,
        )
        token_ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
        return token_ids

    def _one_for_each(self, params: Any, count: int) -> list[SamplingParams]:
        if params is None:
            params = self.get_default_sampling_params()
        if isinstance(params, SamplingParams):
            return [params] * count
        if not isinstance(params, Sequence) or not all(isinstance(one, SamplingParams) for one in params):
            raise ValueError("sampling_params must be SamplingParams, or a list with one for each prompt")
        if len(params) != count:
            raise ValueError(
                f"sampling_params has {len(params)} entries for {count} prompts: give one, or one for each"
            )
        return list(params)

    def _run(self, total: int, use_tqdm: bool) -> dict[str, RequestOutput | EmbeddingRequestOutput]:
        outputs: dict[str, RequestOutput | EmbeddingRequestOutput] = {}
        num_tokens = 0
        with tqdm(total=total, desc="Processed prompts", disable=not use_tqdm, dynamic_ncols=True) as bar:
            while self.llm_engine.has_unfinished_requests():
                for output in self.llm_engine.step():
                    outputs[output.request_id] = output
                    if isinstance(output, RequestOutput):
                        num_tokens += sum(len(choice.token_ids) for choice in output.outputs)
                    bar.set_postfix_str(f"{num_tokens} output tokens")
                    bar.update()
        return outputs


def _log_as_the_environment_says() -> None:
    """With $VLLM_LOGGING_LEVEL the package's log goes to stderr; without it that is the business of the program.

    Raises:
        ValueError: the variable holds no level.
    """
    level = os.environ.get("VLLM_LOGGING_LEVEL", "").upper()
    logger = logging.getLogger("minivllm")
    if not level or logger.handlers:
        return
    if level not in logging.getLevelNamesMapping():
        raise ValueError(
            f"VLLM_LOGGING_LEVEL must be DEBUG, INFO, WARNING, ERROR or CRITICAL, not {level[:40]!r}"
        )
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False


def _as_list(prompts: Any) -> list[Prompt]:
    """One prompt, or several? Text, a dict and a list of ints are one."""
    if isinstance(prompts, (str, Mapping)):
        return [prompts]
    if not isinstance(prompts, Sequence):
        raise ValueError(f"prompts must be one prompt or a list of prompts, not {type(prompts).__name__}")
    if not prompts:
        raise ValueError("prompts is empty: give at least one prompt")
    return [prompts] if isinstance(prompts[0], int) else list(prompts)
