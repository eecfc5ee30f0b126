"""`gateway render`: prints what Envoy is told for a configuration."""

from __future__ import annotations

import json
import os
import sys

from libs.balancing.endpoint import Endpoint
from services.gateway.check import load_or_print
from services.gateway.configuration import Sources
from services.gateway.configuration_errors import nearest
from services.gateway.listener import ListenerOptions
from services.gateway.render import HIDDEN, one_task, render, render_static


def run(
    sources: Sources,
    options: ListenerOptions,
    *,
    task: int | None = None,
    static_admin: Endpoint | None = None,
) -> int:
    """The exit status: 0, or 2 after errors. With `static_admin` the document is a bootstrap for Envoy alone, whose
    admin interface listens there."""
    loaded = load_or_print(sources)
    if loaded is None:
        return 2
    table = loaded.table
    if task is not None:
        if task not in table.tasks:
            hint = nearest(str(task), map(str, table.tasks))
            print(f"gateway: task {task} is not in {sources.main}; {hint}", file=sys.stderr)
            return 2
        table = one_task(table, task)
    if static_admin is None:
        found = render(table, loaded.files, options)
    else:
        found = render_static(table, loaded.files, options, static_admin)
        if table.edge.api_keys is not None:
            print(f'gateway: note: put the API keys where "{HIDDEN}" stands', file=sys.stderr)
    try:
        print(json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False), flush=True)
    except BrokenPipeError:  # the reader, like head, has seen enough; nor is there more to flush at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
