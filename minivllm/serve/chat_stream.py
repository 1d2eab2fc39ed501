"""ChatStreamer: the chunks of a streamed chat answer, from the role to the usage."""

from __future__ import annotations

from collections.abc import AsyncIterator

from minivllm.outputs import CompletionOutput, RequestOutput
from minivllm.serve.backend import Backend, Job, check_output
from minivllm.serve.logprobs import chat_logprobs
from minivllm.serve.protocol import ChatCompletionRequest, NamedToolChoice
from minivllm.serve.responses import (
    ChatChunkChoice,
    ChatCompletionChunk,
    Delta,
    FunctionCall,
    ToolCallAnswer,
    ToolCallDelta,
)
from minivllm.serve.tools import ToolCallFinder, calls_in_answer, mode_of, new_call


class ChoiceSpeaker:
    """Turns one choice's text, piece by piece, into deltas: content as it comes, calls when they are complete."""

    def __init__(self, body: ChatCompletionRequest) -> None:
        self._body = body
        self._mode = mode_of(body)
        self._finder = ToolCallFinder()
        self._text: list[str] = []  # of a required call, which can be read only when it is whole
        self._num_calls = 0

    def say(self, text: str, *, is_last: bool) -> Delta:
        """What the next piece of text adds."""
        if self._mode == "auto":
            content, calls = self._finder.feed(text)
            return self._delta(content + (self._finder.finish() if is_last else ""), calls)
        if self._mode == "named":
            return self._named(text)
        if self._mode == "required":
            self._text.append(text)
            if not is_last:
                return Delta(content="")
            left, calls = calls_in_answer(self._body, "".join(self._text))
            return self._delta(left or "", calls)
        return Delta(content=text)

    @property
    def has_called(self) -> bool:
        """Does the choice end for the sake of its calls? (A named call counts as an ordinary answer.)"""
        return self._num_calls > 0 and self._mode != "named"

    def _delta(self, content: str, calls: list[ToolCallAnswer]) -> Delta:
        delta = Delta(content=content)
        if calls:
            delta.tool_calls = [
                ToolCallDelta(index=self._num_calls + i, id=call.id, type="function", function=call.function)
                for i, call in enumerate(calls)
            ]
            self._num_calls += len(calls)
        return delta

    def _named(self, text: str) -> Delta:
        """The whole answer is the arguments of one call: they can be sent as they come."""
        if self._num_calls:
            return Delta(tool_calls=[ToolCallDelta(index=0, function=FunctionCall(arguments=text))])
        assert isinstance(self._body.tool_choice, NamedToolChoice)
        self._num_calls = 1
        call = new_call(self._body.tool_choice.function.name, text)
        return Delta(tool_calls=[ToolCallDelta(index=0, id=call.id, type="function", function=call.function)])


class ChatStreamer:
    """The chunks of one request."""

    def __init__(self, backend: Backend, body: ChatCompletionRequest, job: Job) -> None:
        self._backend = backend
        self._body = body
        self._job = job
        self._speakers = [ChoiceSpeaker(body) for _ in range(job.n)]
        self._as_ids = backend.tokens_as_ids(body)
        self._latest: RequestOutput | None = None
        self._num_tokens = 0

    async def chunks(self) -> AsyncIterator[ChatCompletionChunk]:
        """First the role of every choice, then text as it comes, the reason with its end, the usage if asked for."""
        with_usage = self._body.usage_in_every_chunk
        async for output in self._job.streams[0]:
            check_output(output)
            assert isinstance(output, RequestOutput)
            is_first, self._latest = self._latest is None, output
            if is_first:
                for index in range(self._job.n):
                    yield self._opening(index, output, with_usage)
            for one in output.outputs:
                self._num_tokens += len(one.token_ids)
                choice = self._choice(one)
                says = choice.delta.content or choice.delta.tool_calls
                if says or choice.finish_reason or choice.logprobs or choice.token_ids:
                    yield self._chunk([choice], with_usage)
        if self._body.include_usage:
            yield self._chunk([], True)

    def _opening(self, index: int, output: RequestOutput, with_usage: bool) -> ChatCompletionChunk:
        said = Delta(role=self._backend.settings.response_role, content="")
        choice = ChatChunkChoice(index=index, delta=said, logprobs=None, finish_reason=None)
        chunk = self._chunk([choice], with_usage)
        if self._body.return_token_ids and index == 0:
            chunk.prompt_token_ids = output.prompt_token_ids
        return chunk

    def _choice(self, one: CompletionOutput) -> ChatChunkChoice:
        speaker = self._speakers[one.index]
        made = ChatChunkChoice(
            index=one.index,
            delta=speaker.say(one.text, is_last=one.finish_reason is not None),
            logprobs=chat_logprobs(one, self._body.top_logprobs or 0, as_ids=self._as_ids),
            finish_reason=None,
        )
        if one.finish_reason:
            is_called = one.finish_reason == "stop" and speaker.has_called
            made.finish_reason = "tool_calls" if is_called else one.finish_reason
            made.stop_reason = one.stop_reason
        if self._body.return_token_ids:
            made.token_ids = list(one.token_ids)
        return made

    def _chunk(self, choices: list[ChatChunkChoice], with_usage: bool) -> ChatCompletionChunk:
        made = ChatCompletionChunk(
            id=self._job.id,
            object="chat.completion.chunk",
            created=self._job.created,
            model=self._job.model,
            choices=choices,
        )
        if with_usage and self._latest is not None:
            made.usage = self._backend.usage([self._latest], self._num_tokens)
        return made
