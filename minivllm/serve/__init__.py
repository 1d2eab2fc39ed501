"""The OpenAI-compatible server: `python -m minivllm.serve`. FastAPI in front of one AsyncLLMEngine.

What it is not: a place for engine logic. It turns HTTP into `AsyncLLMEngine.add_request` and outputs into
JSON.

    cli.py, arguments.py, refusals.py, config_file.py     what the user types
    server.py, connections.py, logs.py     the socket, the signals, the end; slow clients; the log
    app.py                create_app: every route and layer put together
    backend.py            what the routes share: names, defaults, the way into the engine
    rendering.py          text and messages -> token ids, off the event loop
    settings.py           what is set for the server alone
    protocol.py, fields.py, responses.py     requests and responses (pydantic)
    params.py, tools.py   request fields -> the engine's parameters; calls of tools
    completions.py, chat.py, embeddings.py, models.py, tokenization.py, health.py, page.py     the routes
    streaming.py, chat_stream.py, logprobs.py, disconnect.py, limits.py, auth.py, errors.py     one concern each
    metrics.py, metric_tables.py, http_metrics.py, tracking.py     what is counted
    xray.py               the live picture of the engine
    deploy/               Docker, systemd, nginx, Prometheus, Grafana
"""
