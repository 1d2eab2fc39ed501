"""POST /v1/chat/completions: a conversation, continued by one answer, or by calls of tools."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from minivllm.outputs import CompletionOutput
from minivllm.sampling_params import StructuredOutputsParams
from minivllm.serve.backend import Backend
from minivllm.serve.chat_stream import ChatStreamer
from minivllm.serve.disconnect import unless_disconnected
from minivllm.serve.errors import bad_request
from minivllm.serve.logprobs import chat_logprobs, prompt_logprobs
from minivllm.serve.protocol import ChatCompletionRequest
from minivllm.serve.responses import AssistantMessage, ChatChoice, ChatCompletionResponse
from minivllm.serve.streaming import STREAMED, event_stream, json_response
from minivllm.serve.tools import calls_in_answer, form_of_calls, mode_of


def chat_router(backend: Backend) -> APIRouter:
    """The route, over `backend`."""
    router = APIRouter()

    @router.post("/v1/chat/completions", response_model=ChatCompletionResponse, responses=STREAMED)
    async def create_chat_completion(body: ChatCompletionRequest, request: Request) -> Response:
        """Answer a conversation."""
        return await unless_disconnected(request, _answer(backend, body))

    return router


async def _answer(backend: Backend, body: ChatCompletionRequest) -> Response:
    backend.check_engine()
    backend.check_model(body.model)
    form = _form(backend, body)
    token_ids = await _token_ids(backend, body)
    room = backend.engine.max_model_len - len(token_ids)
    max_tokens = room if body.max_tokens is None else body.max_tokens
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    params = backend.params(body, max_tokens, logprobs=logprobs, form=form)
    job = await backend.start("chatcmpl", [token_ids], [params], body)
    if body.stream:
        return event_stream(backend, ChatStreamer(backend, body, job).chunks(), job)
    (output,) = await job.results()
    response = ChatCompletionResponse(
        id=job.id,
        created=job.created,
        model=job.model,
        choices=[_choice(backend, body, one) for one in output.outputs],
        usage=backend.usage([output], sum(len(one.token_ids) for one in output.outputs)),
    )
    if output.prompt_logprobs is not None:
        response.prompt_logprobs = prompt_logprobs(output.prompt_logprobs)
    if body.return_token_ids:
        response.prompt_token_ids = output.prompt_token_ids
    return json_response(response)


def _form(backend: Backend, body: ChatCompletionRequest) -> StructuredOutputsParams | None:
    """The form that the answer must have: as asked for, or that of a tool call."""
    mode = mode_of(body)
    if mode == "none":
        if body.tool_choice == "none":
            body.tools = None  # the template is not to mention them
        return backend.form(body)
    try:
        backend.renderer.check_tools(body)
    except ValueError as error:
        raise bad_request(str(error), "tools") from error
    if mode == "auto":
        if not backend.settings.enable_auto_tool_choice:
            raise bad_request(
                'tool_choice "auto" needs the server to be started with --enable-auto-tool-choice and '
                '--tool-call-parser; "required" and a named function do not',
                "tool_choice",
            )
        return backend.form(body)
    if backend.form(body) is not None:
        raise bad_request("response_format cannot be combined with a tool_choice that requires a call")
    try:
        return form_of_calls(body)
    except ValueError as error:
        raise bad_request(str(error), "tools") from error


async def _token_ids(backend: Backend, body: ChatCompletionRequest) -> list[int]:
    """The conversation as token ids that fit the context."""
    if body.max_completion_tokens is not None:
        body.max_tokens = body.max_completion_tokens
    if body.reasoning_effort is not None:
        body.chat_template_kwargs = {
            "reasoning_effort": body.reasoning_effort,
            **(body.chat_template_kwargs or {}),
        }
    try:
        token_ids = await backend.renderer.encode_chat(body, must_fit=body.truncate_prompt_tokens is None)
    except ValueError as error:
        text = str(error)
        raise bad_request(text, "tools" if text.startswith("tools") else "messages") from error
    return backend.fit(token_ids, body, "messages", body.max_tokens or 1)


def _choice(backend: Backend, body: ChatCompletionRequest, one: CompletionOutput) -> ChatChoice:
    content, calls = calls_in_answer(body, one.text)
    is_called = bool(calls) and one.finish_reason == "stop" and mode_of(body) != "named"
    choice = ChatChoice(
        index=one.index,
        message=AssistantMessage(role=backend.settings.response_role, content=content, tool_calls=calls),
        logprobs=chat_logprobs(one, body.top_logprobs or 0, as_ids=backend.tokens_as_ids(body)),
        finish_reason="tool_calls" if is_called else one.finish_reason,
        stop_reason=one.stop_reason,
    )
    if body.return_token_ids:
        choice.token_ids = list(one.token_ids)
    return choice
