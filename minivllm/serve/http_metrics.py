"""HttpMetrics: the http_* metrics of FastAPI's usual instrumentation, counted by route, method and class of status."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, Summary

_FINE = (0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 7.5, 10, 30, 60)
_COARSE = (0.1, 0.5, 1)
QUIET_HANDLERS = frozenset({"/metrics", "/health", "/load", "/ping", "/version", "/status", "/xray"})
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class HttpMetrics:
    """What is told of HTTP requests; checks and scrapes are not counted."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._total = Counter(
            "http_requests", "Requests.", ("handler", "status", "method"), registry=registry
        )
        self._request_size = Summary(
            "http_request_size_bytes", "Content length of requests.", ("handler",), registry=registry
        )
        self._response_size = Summary(
            "http_response_size_bytes", "Size of the bodies of responses.", ("handler",), registry=registry
        )
        self._fine = Histogram(
            "http_request_duration_highr_seconds",
            "Latency of all requests, in many buckets.",
            buckets=_FINE,
            registry=registry,
        )
        self._coarse = Histogram(
            "http_request_duration_seconds",
            "Latency by route, in few buckets.",
            ("handler", "method"),
            buckets=_COARSE,
            registry=registry,
        )

    def note(self, method: str, handler: str, status: int, seconds: float, num_in: int, num_out: int) -> None:
        """A request has been answered. `handler` is a route's template: strangers cannot make new labels."""
        if handler in QUIET_HANDLERS:
            return
        method = method if method in METHODS else "other"
        self._total.labels(handler, f"{status // 100}xx", method).inc()
        self._request_size.labels(handler).observe(num_in)
        self._response_size.labels(handler).observe(num_out)
        self._fine.observe(seconds)
        self._coarse.labels(handler, method).observe(seconds)
