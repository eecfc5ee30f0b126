"""Runs an ASGI application under pyvoy: start, readiness, drain, stop.

`run_server` starts Envoy with the application inside and watches it. Written sequence of a stop (SIGTERM or SIGINT):

1. Unready: health answers NOT_SERVING, everything is still served. Waits `drain_grace_s`, so that whoever balances
   over the instances notices.
2. Stop accepting: the listener closes, and every connection that still carries calls is told to go away (GOAWAY).
3. Drain: waits until no request is in flight, at most `drain_deadline_s`.
4. Stop: Envoy ends; the application's `on_shutdown` runs. What does not end within `STOP_S` is killed.

A second signal skips to the kill. If this process itself dies, however abruptly, the child dies with it: the kernel
sends it SIGKILL (PR_SET_PDEATHSIG, Linux), and it kills itself when the control socket closes (everywhere).

Envoy's admin interface is on a Unix socket in a directory that only this user can enter.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

from libs.serving.control import FD_VARIABLE
from libs.serving.envoy import StartError, child_environment, command, libpython_help, spawn

log = logging.getLogger(__name__)

STOP_S = 15.0
_TICK_S = 0.05
