"""The OpenAI-compatible server: `python -m minivllm.serve`. FastAPI in front of one AsyncLLMEngine.

What it is not: a place for engine logic. It turns HTTP into `AsyncLLMEngine.add_request` and outputs into
JSON.

    cli.py, server.py     what the user types; the socket, the signals, the end
    app.py                create_app: every route and layer put together
    backend.py            what the routes share: names, defaults, the way into the engine
    rendering.py          text and messages -> token ids, off the event loop
    settings.py           what is set for the server alone
    protocol.py           requests and responses (pydantic)
    completions.py, chat.py, models.py, tokenization.py, health.py, page.py     the routes
    streaming.py, logprobs.py, disconnect.py, limits.py, auth.py, errors.py, metrics.py     one concern each
"""
