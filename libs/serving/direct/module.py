"""The filter as a part of Envoy's configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

LIBRARY_VARIABLE = "SERVING_DIRECT_LIBRARY"
"""Environment variable of the server process: the path of the filter that its Envoy has loaded. Empty: leave the filter
alone and take every call by ASGI."""

LIBRARY = Path(__file__).with_name("libdl_direct.so")


def http_filter() -> dict[str, Any]:
    """Gathers calls for the exchange, and lets everything else pass.

    Raises:
        FileNotFoundError: the library has not been built.
    """
    if not LIBRARY.is_file():
        raise FileNotFoundError(f"{LIBRARY} is missing: its folder's BUILD file says how to make it")
    return {
        "name": "direct",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter",
            "dynamic_module_config": {"module": {"local": {"filename": str(LIBRARY)}}},
            "filter_name": "direct",
        },
    }
