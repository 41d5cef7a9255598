"""What an operator can set: frozen structs, and all their defaults.

Reading them from TOML, and telling what is wrong with it, is the business of ``config_file``.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from embeddings_gateway.backends.spec import Positive, Spec

Truncate = Literal["error", "right", "left", "mean"]
InputType = Literal["query", "document"]
TokenIdPolicy = Literal["auto", "native", "cl100k", "reject"]
Seconds = Annotated[float, msgspec.Meta(gt=0)]


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the gateway listens, and bounds that hold for every model.

    Attributes:
        host, port: where it listens.
        strict: refuse request fields that are not known, instead of ignoring them.
        log_format: ``auto`` is ``console`` on a terminal and ``json`` elsewhere.
        log_level: the least severe event that is logged.
        max_inputs: inputs of one request.
        max_input_ids: token ids of one input that is given as such.
        max_request_tokens: tokens of one request.
        max_input_chars: characters of one text, before it is tokenized.
        max_body_bytes: bytes of a request's body.
        max_connections: connections at once.
        max_buffered_bytes: bytes of the bodies of all requests that have not been answered, and of answers
            that have not been taken.
        idle_timeout_s: seconds for which a connection may have nothing to ask.
        head_timeout_s: seconds in which a request's head has to arrive.
        body_timeout_s: seconds in which its body has to arrive.
        send_timeout_s: seconds in which a client has to take some of what it is sent; all of an answer in
            these and what its length takes at 256 KiB a second.
        request_timeout_s: seconds in which a request has to be done.
        shutdown_timeout_s: seconds in which accepted requests are finished when the gateway is asked to end.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8000
    strict: bool = False
    log_format: Literal["auto", "json", "console"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    max_inputs: Positive = 2048
    max_input_ids: Positive = 8192
    max_request_tokens: Positive = 300_000
    max_input_chars: Positive = 1_000_000
    max_body_bytes: Positive = 32 << 20
    max_connections: Positive = 4096
    max_buffered_bytes: Positive = 256 << 20
    idle_timeout_s: Seconds = 120
    head_timeout_s: Seconds = 10
    body_timeout_s: Seconds = 30
    send_timeout_s: Seconds = 30
    request_timeout_s: Seconds = 600
    shutdown_timeout_s: Positive = 30


class ServingConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a model is served, whatever its backend.

    Attributes:
        aliases: other names of the model.
        replicas: worker processes that load it.
        truncate: what happens to an input that is too long, where the request does not say.
        token_ids: what inputs given as token ids mean.
        max_queue_tokens: tokens that may wait for the model.
        min_bulk_share: the least share of the model's tokens that bulk calls get while interactive ones wait.
        hang_timeout_s: seconds after which a batch may be taken for hung, at the earliest; how many it takes
            beyond that depends on its size and the measured speed.
        load_timeout_s: seconds after which loading is taken for hung.
        audit_every: how many batches there are for each of which one input is computed again; 0 is none.
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
    """One model: what its backend is told, and how it is served."""

    spec: Spec
    serving: ServingConfig = ServingConfig()


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The whole configuration.

    Attributes:
        models: by the name that clients use.
        source: where it was read, for people.
    """

    server: ServerConfig
    models: dict[str, ModelConfig]
    source: str
