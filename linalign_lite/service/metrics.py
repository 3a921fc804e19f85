"""Counters of a service, for Prometheus."""

from __future__ import annotations

from typing import Any

from linalign_lite.errors import import_extra

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 120)


class Metrics:
    """Counters of one service process. Labels are names of heads and routes, never of clients."""

    def __init__(self) -> None:
        library: Any = import_extra("prometheus_client", extra="serve", purpose="a service")
        self._library, self._registry = library, library.CollectorRegistry()
        with_registry = {"registry": self._registry}
        self.requests = library.Counter(
            "linalign_requests", "Requests answered.", ["route", "status"], **with_registry
        )
        self.states = library.Counter(
            "linalign_states_scored", "States scored.", ["head"], **with_registry
        )
        self.seconds = library.Histogram(
            "linalign_score_seconds",
            "Seconds from a query's arrival to its response.",
            ["head"],
            buckets=_SECONDS,
            **with_registry,
        )
        gauges = {
            "waiting": "Queries that wait for a process.",
            "running": "Queries in the hands of processes.",
            "keys": "Public keys registered.",
            "processes_lost": "Times that processes were started again because one ended.",
        }
        self.gauges = {
            name: library.Gauge(f"linalign_{name}", text, **with_registry)
            for name, text in gauges.items()
        }

    def page(self) -> bytes:
        """The text that Prometheus reads."""
        return bytes(self._library.generate_latest(self._registry))
