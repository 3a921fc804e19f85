"""Run a service: uvicorn with TLS, signals, and logs of one JSON object a line."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from linalign_lite.errors import LinalignError
from linalign_lite.service.configuration import Configuration
from linalign_lite.service.connections import KEEP_ALIVE, most_connections, protocol
from linalign_lite.service.startup import listen, require_extra, require_places
from linalign_lite.service.state import LOG, Service

# fields that are read when a service starts
_FIXED = (
    *("host", "port", "tls", "workers", "waiting", "keys", "most_keys", "request_seconds"),
    "origins",
)
_GRACE = 30  # seconds to answer what was taken, when the service is told to end


class _JsonLines(logging.Formatter):
    """One JSON object a line. Nothing of a request but route, status and time."""

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", {})
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {"time": f"{moment}Z", "level": record.levelname.lower()}
        return json.dumps({**line, "event": record.getMessage(), **fields})


def run(
    configuration_file: Path,
    *,
    port: int | None = None,
    quiet: bool = False,
    ready: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve until SIGTERM or Ctrl-C. SIGHUP reads the configuration and its heads again.

    port: instead of the configuration's. ready: called with the URL once queries are answered.
    Raises InputError or FormatError for what cannot be served, MissingExtraError without the extra
    `serve`.
    """
    require_extra()
    import uvicorn

    from linalign_lite.service.application import application

    _log(quiet=quiet)
    configuration = Configuration.load(configuration_file)
    require_places(configuration)
    tls = configuration.tls.context() if configuration.tls else None
    most = most_connections()
    with listen(configuration.host, configuration.port if port is None else port) as listening:
        service = Service(configuration)
        settings = uvicorn.Config(
            application(service),
            http=protocol(configuration.request_seconds, most),
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            limit_concurrency=2 * most,
            backlog=min(most, 1024),
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=_GRACE,
            ws="none",
        )
        settings.load()
        settings.ssl = tls

        class Server(uvicorn.Server):
            async def startup(self, sockets: list[Any] | None = None) -> None:
                await super().startup(sockets)
                scheme = "https" if tls else "http"
                url = f"{scheme}://{_address(configuration.host, listening)}"
                ready(url)
                LOG.info("ready", extra={"fields": {"url": url, "heads": list(service.heads)}})

            async def shutdown(self, sockets: list[Any] | None = None) -> None:
                LOG.info("stopping")
                await super().shutdown(sockets)
                await service.close()
                LOG.info("stopped")

        server = Server(settings)

        async def serve() -> None:
            await service.start()
            reload = functools.partial(_reload, service, configuration_file)
            if hasattr(signal, "SIGHUP"):
                loop = asyncio.get_running_loop()
                loop.add_signal_handler(signal.SIGHUP, lambda: asyncio.ensure_future(reload()))
            await server.serve([listening])

        try:
            with asyncio.Runner(loop_factory=settings.get_loop_factory()) as runner:
                runner.run(serve())
        except (KeyboardInterrupt, SystemExit):  # uvicorn ends by the signal that ended it
            if not server.should_exit:
                raise
        finally:
            service.workers.kill()


def _address(host: str, listening: Any) -> str:
    port = listening.getsockname()[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def _reload(service: Service, path: Path) -> None:
    before = service.configuration
    try:
        await service.reload(Configuration.load(path))
    except LinalignError as e:
        LOG.error("not reloaded; the old heads stay", extra={"fields": {"error": str(e)}})
        return
    LOG.info("reloaded", extra={"fields": {"heads": list(service.heads)}})
    after = service.configuration
    changed = [name for name in _FIXED if getattr(before, name) != getattr(after, name)]
    if changed:
        LOG.warning("needs a restart", extra={"fields": {"changed": changed}})


def _log(*, quiet: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    for name in (LOG.name, "uvicorn.error", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.WARNING if quiet or name != LOG.name else logging.INFO)
