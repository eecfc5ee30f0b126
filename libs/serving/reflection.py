"""Server reflection, by which grpcurl and its like learn a server's methods: grpc.reflection.v1 and v1alpha.

Protocol: https://github.com/grpc/grpc/blob/master/doc/server-reflection.md. Both versions have the same messages:

    ServerReflectionRequest  { host 1; oneof: file_by_filename 3, file_containing_symbol 4,
                               file_containing_extension 5, all_extension_numbers_of_type 6, list_services 7 }
    ServerReflectionResponse { valid_host 1; original_request 2; oneof: file_descriptor_response 4,
                               all_extension_numbers_response 5, list_services_response 6, error_response 7 }
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from typing import Protocol

from libs.serving.call import Call
from libs.serving.errors import InvalidArgument
from libs.serving.protowire import WireError, block, fields, number, text
from libs.serving.status import Code
from libs.serving.streams import StreamHandler

SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")

_HOST, _BY_NAME, _BY_SYMBOL, _BY_EXTENSION, _EXTENSIONS_OF, _LIST = 1, 3, 4, 5, 6, 7
_ASKED = frozenset((_BY_NAME, _BY_SYMBOL, _BY_EXTENSION, _EXTENSIONS_OF, _LIST))


class Descriptors(Protocol):
    """Where the descriptions of the services come from. Called on threads of their own, since they may have to be
    loaded first.
    """

    def file(self, name: str) -> Sequence[bytes] | None:
        """The serialized FileDescriptorProto of a file and those of all that it imports; None if there is no such
        file.
        """

    def file_containing(self, symbol: str) -> Sequence[bytes] | None:
        """The same of the file that defines a service, method, message, field or enum by its full name."""


class Reflection:
    """The service over some descriptors.

    Args:
        services: full names of the services that the server offers, besides this one.
    """

    def __init__(self, descriptors: Descriptors, services: Iterable[str]) -> None:
        self._descriptors = descriptors
        names = sorted({*services, *SERVICES})
        self._list = b"".join(block(1, block(1, name.encode())) for name in names)

    def streams(self) -> dict[str, StreamHandler]:
        """Handlers by method path."""
        return {f"/{service}/ServerReflectionInfo": self.info for service in SERVICES}

    async def info(self, call: Call, requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """Answer each request of the stream.

        Raises:
            InvalidArgument: a message is no ServerReflectionRequest.
        """
        async for request in requests:
            try:
                found = dict(fields(request))  # of a field that is there twice the last counts
                asked = next((key for key in reversed(found) if key in _ASKED), 0)
                argument = text(found[asked]) if asked in (_BY_NAME, _BY_SYMBOL, _EXTENSIONS_OF) else ""
            except WireError as error:
                raise InvalidArgument(f"no ServerReflectionRequest: {error}") from None
            yield b"".join(
                (
                    block(1, found.get(_HOST, b"")),
                    block(2, bytes(request)),
                    await asyncio.to_thread(self._answer, asked, argument),
                )
            )

    def _answer(self, asked: int, argument: str) -> bytes:
        if asked == _LIST:
            return block(6, self._list)
        if asked in (_BY_NAME, _BY_SYMBOL):
            by_name = asked == _BY_NAME
            files = (self._descriptors.file if by_name else self._descriptors.file_containing)(argument)
            if files is None:
                return _error(Code.NOT_FOUND, f"no {'file' if by_name else 'symbol'} {argument!r} here")
            return block(4, b"".join(block(1, file) for file in files))
        if asked == _EXTENSIONS_OF and self._descriptors.file_containing(argument) is not None:
            return block(5, block(1, argument.encode()))  # proto3 has none but of options
        if asked in (_EXTENSIONS_OF, _BY_EXTENSION):
            return _error(Code.NOT_FOUND, "no such type, or no such extension of it, here")
        return _error(Code.INVALID_ARGUMENT, "the request asks for nothing that is known here")


def _error(code: Code, message: str) -> bytes:
    return block(7, number(1, code) + block(2, message.encode()))
