"""How a client connects, authenticates and retries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS to the server, in PEM.

    Attributes:
        ca: certificates to trust; None for the machine's.
        cert, key: this client's certificate chain and key, for mutual TLS; both or neither.
        server_name: the name to verify, when it is not the one in the address.
    """

    ca: bytes | None = None
    cert: bytes | None = None
    key: bytes | None = field(default=None, repr=False)
    server_name: str = ""

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise ValueError("Tls: give both cert and key, or neither")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When a call that failed is sent again. Predictions change nothing, so this is safe for them.

    Attributes:
        attempts: most times that a call is sent; 1 for no retries.
        codes: statuses, by gRPC's names, that are worth another try.
        backoff_s: the longest first wait; each next one is twice as long. The wait is drawn evenly up to it.
        max_backoff_s: and no longer than this.
        budget: most retries as a share of calls, so that retries cannot multiply the load of a service in trouble;
            ten are always allowed.
    """

    attempts: int = 3
    codes: frozenset[str] = frozenset(("UNAVAILABLE",))
    backoff_s: float = 0.01
    max_backoff_s: float = 1.0
    budget: float = 0.2

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"RetryPolicy: attempts is {self.attempts}, expected at least 1")


@dataclass(frozen=True, slots=True)
class Options:
    """What all calls of a client have in common.

    Attributes:
        timeout_s: of a call that names none, with all its retries.
        tls: None for plaintext, True for TLS with the machine's trust.
        api_key: sent as metadata `x-api-key`.
        token: sent as `authorization: Bearer`; a function is asked before each call, for tokens that expire.
        metadata: sent with each call.
        compression: of requests. Answers are compressed as the server decides.
        max_message_bytes: of an answer.
        silence_s: a connection that leaves what was sent unacknowledged for this long is given up, and its calls are
            tried again elsewhere: a server's host may vanish without a word.
    """

    timeout_s: float = 10.0
    tls: Tls | bool | None = None
    api_key: str = field(default="", repr=False)
    token: str | Callable[[], str] = field(default="", repr=False)
    metadata: Mapping[str, str] = field(default_factory=dict)
    compression: Literal["gzip", "deflate"] | None = None
    max_message_bytes: int = 64 << 20
    silence_s: float = 10.0
    retry: RetryPolicy = field(default_factory=RetryPolicy)


@dataclass(frozen=True, slots=True)
class Reply(Generic[T]):
    """An answer and where it came from.

    Attributes:
        instance: who answered, as the gateway says in `x-dl-instance`, or the endpoint of a direct call.
        attempts: how often the call was sent.
        seconds: from the first attempt to the answer.
    """

    value: T
    instance: str
    attempts: int
    seconds: float
