"""Run a service: uvicorn with TLS, signals, and logs of one JSON object a line."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import ssl
import sys
import time
from pathlib import Path
from typing import Any

from linalign_lite.errors import InputError, LinalignError, import_extra
from linalign_lite.service.configuration import Configuration
from linalign_lite.service.connections import KEEP_ALIVE, most_connections, protocol
from linalign_lite.service.state import LOG, Service

_GRACE = 30  # seconds to answer what was taken, when the service is told to end


class _JsonLines(logging.Formatter):
    """One JSON object a line. Nothing of a request but route, status and time."""

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", {})
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {"time": f"{moment}Z", "level": record.levelname.lower()}
        return json.dumps({**line, "event": record.getMessage(), **fields})


def run(configuration_file: Path, *, quiet: bool = False) -> None:
    """Serve until SIGTERM or Ctrl-C. SIGHUP reads the configuration and its heads again.

    Raises InputError or FormatError for what cannot be served, MissingExtraError without the extra
    `serve`.
    """
    uvicorn: Any = import_extra("uvicorn", extra="serve", purpose="a service")
    import_extra("starlette", extra="serve", purpose="a service")
    from linalign_lite.service.application import application

    _log(quiet=quiet)
    configuration = Configuration.load(configuration_file)
    service = Service(configuration)
    tls: dict[str, Any] = {}
    most = most_connections()
    if configuration.tls:
        tls = {
            "ssl_certfile": configuration.tls.certificate,
            "ssl_keyfile": configuration.tls.key,
            "ssl_ca_certs": configuration.tls.clients,
            "ssl_cert_reqs": ssl.CERT_REQUIRED if configuration.tls.clients else ssl.CERT_NONE,
        }
    settings = uvicorn.Config(
        application(service),
        host=configuration.host,
        port=configuration.port,
        http=protocol(configuration.request_seconds, most),
        log_config=None,
        access_log=False,
        lifespan="on",
        server_header=False,
        limit_concurrency=2 * most,
        backlog=min(most, 1024),
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=_GRACE,
        ws="none",
        **tls,
    )
    server = uvicorn.Server(settings)

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        if hasattr(signal, "SIGHUP"):
            loop.add_signal_handler(
                signal.SIGHUP, lambda: asyncio.ensure_future(_reload(service, configuration_file))
            )
        announcing = asyncio.ensure_future(_announce(server, configuration))
        try:
            await server.serve()
        finally:
            announcing.cancel()

    try:
        with asyncio.Runner(loop_factory=settings.get_loop_factory()) as runner:
            runner.run(serve())
    except (KeyboardInterrupt, SystemExit):  # uvicorn ends by the signal that ended it
        if not server.should_exit:
            raise
    except (OSError, ssl.SSLError) as e:
        raise InputError("the service cannot start", got=str(e)[:200]) from e
    finally:
        service.workers.kill()
    if not server.started:
        raise LinalignError("the service did not start", hint="the log above says why")


async def _announce(server: Any, configuration: Configuration) -> None:
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    scheme = "https" if configuration.tls else "http"
    heads = [h.name for h in configuration.heads]
    fields = {"url": f"{scheme}://{configuration.host}:{port}", "heads": heads}
    LOG.info("ready", extra={"fields": fields})


async def _reload(service: Any, path: Path) -> None:
    try:
        await service.reload(Configuration.load(path))
    except LinalignError as e:
        LOG.error("not reloaded; the old heads stay", extra={"fields": {"error": str(e)}})
    else:
        LOG.info("reloaded", extra={"fields": {"heads": list(service.heads)}})


def _log(*, quiet: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    for name in (LOG.name, "uvicorn.error", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.WARNING if quiet or name != LOG.name else logging.INFO)
