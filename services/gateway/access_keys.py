"""The API keys file: one client a line, `<client> <key>`. Pure.

`#` starts a comment line and blank lines are skipped. A client may have several keys, one a line, so that a new key
can be handed out before the old one is taken away; a key belongs to one client.
"""

from __future__ import annotations

import re
from pathlib import Path

from services.gateway.configuration_errors import ConfigError

EXAMPLE = "a line like: search-frontend 6d1f0c..., a client's name and its key"
MIN_KEY = 16  # characters; shorter ones can be guessed
MAX_KEY = 1024

_CLIENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KEY = re.compile(r"[!-~]+")  # what a header can carry: printable ASCII without spaces


def read(data: bytes, path: Path) -> tuple[dict[str, str], list[ConfigError]]:
    """Clients by their keys, and what is wrong with the file. No error ever quotes a key."""
    errors: list[ConfigError] = []
    clients: dict[str, str] = {}

    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        line = raw.decode("utf-8", "replace").strip()
        if not line or line.startswith("#"):
            continue
        problem = ""
        client, _, key = (part.strip() for part in line.partition(" "))
        if not key:
            problem = "has no key after the client's name"
        elif not _CLIENT.fullmatch(client):
            problem = "does not begin with a client's name of letters, digits, dots, dashes and underscores"
        elif not MIN_KEY <= len(key) <= MAX_KEY:
            problem = f"has a key of {len(key)} characters, and a key has {MIN_KEY} to {MAX_KEY}"
        elif not _KEY.fullmatch(key):
            problem = "has a key with spaces or characters that no header can carry"
        elif clients.get(key, client) != client:
            problem = f"gives {client!r} the key of {clients[key]!r}"
        if problem:
            errors.append(ConfigError(path, number, "api key", problem, EXAMPLE))
        else:
            clients[key] = client
    if not clients and not errors:
        errors.append(ConfigError(path, 0, "api keys", "there is no key in the file", EXAMPLE))
    return clients, errors
