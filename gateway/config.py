"""The settings of the gateway: frozen structs and all defaults. ``config_file`` reads them from TOML."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import msgspec

from embeddings_gateway.backends.spec import Positive, Spec

Truncate = Literal["error", "right", "left", "mean"]
InputType = Literal["query", "document"]
TokenIdPolicy = Literal["auto", "native", "cl100k", "reject"]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
Host = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(unix:.+|\[[^][/\s]+\]|[^][/:\s]+|[^][/:\s]*:[^][/\s]*:[^][/\s]*)$",
        description="an address or name without a port (127.0.0.1, ::1, localhost; 0.0.0.0 is every network) "
        "or unix:PATH",
    ),
]
SocketMode = Annotated[
    str, msgspec.Meta(pattern="^0?[0-7]{3}$", description='permissions in octal digits, such as "0660"')
]
RootPath = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(/[\w.~-]+)*$", description="a path such as /embeddings, without a slash at the end"
    ),
]
Origin = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(?!http://.*:80$|https://.*:443$)(\*|null|[a-z][a-z0-9+.-]*://[^/?#@*\sA-Z]+)$",
        description='"*" or an origin as browsers write it: "https://app.example.org", "http://localhost:3000"; '
        "in lower case, without a path, and without the port that its scheme implies",
    ),
]


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the gateway listens, and limits that hold for every model.

    Attributes:
        host, port: the address to listen on; port 0 picks a free port. The host ``unix:PATH`` is a Unix socket.
        socket_mode: the permissions of a Unix socket, in octal digits.
        root_path: what a proxy leaves in front of each path, such as ``/embeddings-gateway``.
        cors_origins: origins whose pages may call from a browser; ``*`` is every origin.
        strict: refuse unknown fields of a request instead of ignoring them.
        log_format: ``auto`` is ``console`` on a terminal and ``json`` elsewhere.
        log_level: the least severe event that is logged.
        max_inputs: inputs of one request.
        max_input_ids: token ids of one input that is sent as token ids.
        max_request_tokens: tokens of one request.
        max_input_chars: characters of one text, before it is tokenized.
        max_body_bytes: bytes of a request's body.
        max_connections: open connections.
        max_buffered_bytes: bytes held for all connections together: bodies of unanswered requests, and their
            answers until clients have read them. An eighth is left to small requests.
        idle_timeout_s: a connection without a request is closed after this time. Common clients and proxies
            keep connections for 90 s; a shorter time here would make them use connections that are closing.
        head_timeout_s: time for a request's head to arrive.
        body_timeout_s: how long a request's body may stop, or fall behind 32 KiB/s.
        send_timeout_s: time in which a client has to read some of its response. The whole response has this
            time and what its length takes at 256 KiB/s.
        request_timeout_s: time for a request to be answered.
        shutdown_timeout_s: time to finish accepted requests when the gateway stops.
    """

    host: Host = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8000
    socket_mode: SocketMode = "0660"
    root_path: RootPath = ""
    cors_origins: tuple[Origin, ...] = ()
    strict: bool = False
    log_format: Literal["auto", "json", "console"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    max_inputs: Positive = 2048
    max_input_ids: Positive = 8192
    max_request_tokens: Positive = 300_000
    max_input_chars: Positive = 1_000_000
    max_body_bytes: Positive = 8 << 20
    max_connections: Positive = 4096
    max_buffered_bytes: Positive = 256 << 20
    idle_timeout_s: Seconds = 120
    head_timeout_s: Seconds = 10
    body_timeout_s: Seconds = 30
    send_timeout_s: Seconds = 30
    request_timeout_s: Seconds = 600
    shutdown_timeout_s: Seconds = 30


class ServingConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a model is served, whatever its backend.

    Attributes:
        aliases: other names of the model.
        replicas: worker processes that load it.
        truncate: what happens to an input that is too long, if the request does not say.
        token_ids: how to read inputs that are token ids.
        max_queue_tokens: tokens of interactive calls that may wait for the model; of bulk calls, half as many more.
        min_bulk_share: the least share of the model's tokens that bulk calls get while interactive ones wait.
        hang_timeout_s: a batch counts as hung after this time at the earliest. Large batches and slow models
            get more, from the measured speed.
        load_timeout_s: loading counts as hung after this time.
        audit_every: one input of every so many batches is computed again and compared; 0 turns this off.
    """

    aliases: tuple[Annotated[str, msgspec.Meta(min_length=1)], ...] = ()
    replicas: Positive = 1
    truncate: Truncate = "error"
    token_ids: TokenIdPolicy = "auto"
    max_queue_tokens: Positive = 1_000_000
    min_bulk_share: Annotated[float, msgspec.Meta(gt=0, le=0.5)] = 0.05
    hang_timeout_s: Seconds = 30
    load_timeout_s: Seconds = 3600
    audit_every: Annotated[int, msgspec.Meta(ge=0)] = 256


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One model: the spec of its backend, and how it is served.

    Attributes:
        missing_path: if the path of the spec is taken for a hub id, the directory that it would be otherwise.
    """

    spec: Spec
    serving: ServingConfig = ServingConfig()
    missing_path: str | None = None


class RenamedSetting(NamedTuple):
    """A setting that the configuration has under its old name.

    Attributes:
        where: ``server`` or ``model 'NAME'``.
        old, new: the names.
    """

    where: str
    old: str
    new: str


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The whole configuration.

    Attributes:
        models: by the name that clients use.
        source: where it was read from, for messages.
        renamed: the settings that it has under old names.
    """

    server: ServerConfig
    models: dict[str, ModelConfig]
    source: str
    renamed: tuple[RenamedSetting, ...] = ()
