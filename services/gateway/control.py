"""The control plane's process, between its start by the supervisor and its end."""

from __future__ import annotations

import asyncio
import sys

from services.gateway.control_link import Supervised
from services.gateway.gateway import Gateway, GatewayOptions
from services.gateway.supervisor_place import Place, StartError


def main(options: GatewayOptions, place: Place) -> int:
    """Runs until the supervisor says so, or is gone. The exit status: 2 for an error that was explained."""
    try:
        return asyncio.run(_run(options, place))
    except StartError as error:
        print(f"gateway: {error}", file=sys.stderr)
        return 2


async def _run(options: GatewayOptions, place: Place) -> int:
    supervised = Supervised(place.link)
    gateway = Gateway(options, place, supervised)
    supervised.follow(gateway.envoy_changed, gateway.reload_soon, gateway.stop)
    beating = asyncio.create_task(supervised.beat())
    try:
        return await gateway.run()
    finally:
        beating.cancel()
