from __future__ import annotations

import subprocess
import sys

from services.gateway.testing import ROOT, environment

_LOADED = """
import sys
import services.gateway.__main__, services.gateway.serve_commands, services.gateway.supervisor
print(*sorted(sys.modules))
"""


def test_the_supervisor_is_small_and_has_nothing_that_a_fork_could_break() -> None:
    told = subprocess.run(
        [sys.executable, "-c", _LOADED],
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    loaded = {name.partition(".")[0] for name in told.stdout.split()}
    assert "services" in loaded
    assert not loaded & {"grpc", "google", "asyncio", "ssl", "watchfiles", "prometheus_client", "numpy"}
