"""Opens the port of the reading room and answers until it is interrupted."""

from __future__ import annotations

import socket
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from cxrpipe.config import ReviewConfig
from cxrpipe.errors import ConfigError

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_AT_MOST_S = 5
_SHORTEST_PASSWORD = 12


def listen(config: ReviewConfig) -> socket.socket:
    """The open socket; ConfigError where the address cannot be had."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise ConfigError(f"--host {config.host}: {error.strerror}") from None
    opened = socket.socket(family, kind, protocol)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(place)
        opened.listen(128)
    except OSError as error:
        opened.close()
        raise ConfigError(f"--port {config.port} of {config.host}: {error.strerror}; try another --port") from None
    return opened


def server_of(app: ASGIApp, config: ReviewConfig) -> uvicorn.Server:
    """A server that answers until SIGINT or SIGTERM, which then raises KeyboardInterrupt."""
    settings = uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_AT_MOST_S,
        ssl_certfile=config.certificate,
        ssl_keyfile=config.key,
    )
    try:
        settings.load()
    except OSError as error:  # also what is wrong with a certificate
        raise ConfigError(f"--certificate {config.certificate}, --key {config.key}: {error}") from None
    return uvicorn.Server(settings)


def names(config: ReviewConfig) -> list[str]:
    """What may stand in the Host header."""
    own = [] if config.is_any_address else [config.host]
    return [*own, *([config.name] if config.name else []), *(_LOOPBACK if config.is_local else ())]


def address(config: ReviewConfig, opened: socket.socket) -> str:
    """What a reader opens, without a token: `https://reading.example.org:8400/`."""
    name = config.name or config.host
    scheme = "http" if config.certificate is None else "https"
    return f"{scheme}://{f'[{name}]' if ':' in name else name}:{opened.getsockname()[1]}/"


def read_password(path: str) -> str:
    """The password of --password-file; ConfigError where it is short, or others may read the file."""
    try:
        file = Path(path)
        password = file.read_text().strip()
        is_open_to_others = file.stat().st_mode & 0o077
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--password-file {path}: {error}") from None
    if is_open_to_others:
        raise ConfigError(f"--password-file {path} can be read by others; run: chmod 600 {path}")
    if len(password) < _SHORTEST_PASSWORD:
        raise ConfigError(f"--password-file {path}: {len(password)} characters; expected at least {_SHORTEST_PASSWORD}")
    return password
