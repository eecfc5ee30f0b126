from __future__ import annotations

import resource
import subprocess
import sys

from services.gateway.testing import ROOT, environment

_LOWERED = """
import resource, subprocess, sys
from services.gateway.supervisor_process import allow_many_files
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, most))
allow_many_files()
subprocess.run([sys.executable, "-c", "import resource; print(*resource.getrlimit(resource.RLIMIT_NOFILE))"])
"""


def test_children_may_open_as_many_files_as_the_system_allows() -> None:
    told = subprocess.run(
        [sys.executable, "-c", _LOWERED],
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
    ).stdout
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert told.split() == [str(most), str(most)]
