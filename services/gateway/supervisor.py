"""The process that lasts: starts Envoy and the control plane, starts again what ends or hangs, and ends both in order.

As little as can break: one thread, the standard library, no configuration of its own. The control plane is a fork of
it. Each of the two children lives on while the other is started again.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType

from services.gateway import supervisor_envoy, supervisor_process
from services.gateway.bootstrap import BootstrapOptions, bootstrap
from services.gateway.control_keepsake import Keepsake
from services.gateway.names import DRAIN_S
from services.gateway.supervisor_envoy import ADMIN_SOCKET, CONTROL_SOCKET, EnvoyOptions
from services.gateway.supervisor_folder import run_folder
from services.gateway.supervisor_link import EnvoyState, Link
from services.gateway.supervisor_place import CRASH_WINDOW_S, Backoff, Place, StartError
from services.gateway.supervisor_ports import listen, reserve_port
from services.gateway.supervisor_process import Fork

log = logging.getLogger(__name__)

START_DEADLINE_S = 30.0  # for Envoy, from its start to its first table
# A live Envoy answers its admin interface within milliseconds; while it takes in a large table, within seconds.
ENVOY_HANGS_S = 20.0
CONTROL_START_S = 120.0  # for the control plane's first word: imports on a busy machine
# An Envoy that keeps crashing is not helped by starting it again. A control plane may be: it is no Envoy's end.
_CRASHES = 5
_POLL_S, _IDLE_S = 0.02, 5.0
_END_S = 5.0  # for Envoy to end by itself
_CONTROL_END_S = 2.0


class Ended(Exception):  # noqa: N818 (no error: the orderly end of the loop)
    """The gateway cannot go on. The exit status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass(frozen=True, slots=True)
class SupervisorOptions:
    listen_host: str
    listen_port: int
    admin_host: str = "127.0.0.1"
    admin_port: int = 0
    # Where the control plane serves others too; without one of ours, where it is.
    xds: tuple[str, int] | None = None
    drain_grace_s: float = 1.0
    drain_deadline_s: float = 15.0
    envoy: EnvoyOptions = field(default_factory=EnvoyOptions)


class Supervisor:
    """One gateway. `control` runs in the control plane's process and returns its exit status: 2 for an error that it
    has explained and that another start would not mend. None: Envoy alone, on a control plane elsewhere."""

    def __init__(self, options: SupervisorOptions, control: Callable[[Place], int] | None) -> None:
        self._options = options
        self._control_main = control
        self._signals: set[int] = set()
        self._selector = selectors.DefaultSelector()
        self._announced = False
        self._xds_port = 0
        self._started = False  # the control plane was able to answer Envoy once

        self._control: Fork | None = None
        self._link: Link | None = None
        self._expect_by = 0.0  # the control plane's next word
        self._control_pause = Backoff()
        self._control_restarts = 0
        self._start_control_at: float | None = None

        self._envoy: subprocess.Popen[bytes] | None = None
        self._envoy_pause = Backoff()
        self._envoy_restarts = 0
        self._start_envoy_at: float | None = None
        self._envoy_ready_by = 0.0
        self._ask_envoy_at = 0.0
        self._envoy_answered_at = 0.0
        self._live = False
        self._draining = False

    def run(self) -> int:
        """Serves until told to stop. The exit status: 0 after an orderly end. Raises StartError."""
        options = self._options
        with contextlib.ExitStack() as stack:
            held = stack.enter_context(
                _taken("--listen", options.listen_host, options.listen_port, reserve_port)
            )
            self._listen_port = held.getsockname()[1]
            if self._control_main is not None:
                self._admin = stack.enter_context(
                    _taken("--admin", options.admin_host, options.admin_port, listen)
                )
                if options.xds is not None:
                    held = stack.enter_context(_taken("--xds", *options.xds, reserve_port))
                    self._xds_port = held.getsockname()[1]
            try:
                self._folder = stack.enter_context(run_folder())
            except OSError as error:
                raise StartError(str(error)) from None
            self._envoy_admin = self._folder / ADMIN_SOCKET
            self._keepsake = Keepsake()
            stack.callback(self._keepsake.close)
            stack.enter_context(self._signals_caught())
            stack.callback(self._end_children)
            return self._serve()

    def _serve(self) -> int:
        if self._control_main is None:
            self._start_envoy_at = time.monotonic()
        else:
            self._start_control()
        try:
            while not self._signals & {signal.SIGTERM, signal.SIGINT}:
                self._watch_control()
                self._watch_envoy()
                if signal.SIGHUP in self._signals:
                    self._signals.discard(signal.SIGHUP)
                    if self._link is not None:
                        self._link.send({"reload": True})
                    if self._live:
                        with contextlib.suppress(OSError):  # a crash, which is seen elsewhere
                            supervisor_envoy.reopen_logs(self._envoy_admin)
                self._wait(self._pause())
        except Ended as ended:
            return ended.status
        self._signals.clear()
        if self._live:
            self._drain()
        return 0

    # --- the control plane ---

    def _start_control(self) -> None:
        self._start_control_at = None
        ours, theirs = Link.pair()
        main = self._control_main
        if main is None:
            raise RuntimeError("there is no control plane of ours")

        def child() -> int:
            ours.close()
            return main(
                Place(self._folder, self._listen_port, self._admin, self._xds_port, theirs, self._keepsake)
            )

        self._control = Fork(child)
        theirs.close()
        self._link = ours
        self._selector.register(ours, selectors.EVENT_READ)
        self._expect_by = time.monotonic() + CONTROL_START_S
        self._tell()

    def _watch_control(self) -> None:
        now = time.monotonic()
        if self._control is None:
            if self._start_control_at is not None and now >= self._start_control_at:
                self._start_control()
            return
        for message in (self._link.receive() if self._link else None) or ():
            self._expect_by = now + message.get("alive_s", CONTROL_START_S)
            if message.get("started") and not self._started:
                self._started = True
                self._start_envoy_at = now
        if now > self._expect_by and self._control.poll() is None:
            log.error("the control plane hangs; ending it. Envoy serves on")
            self._control.kill()
            supervisor_process.end(self._control, _CONTROL_END_S)
        status = self._control.poll()
        if status is None:
            return
        self._drop_link()
        self._control = None
        if not self._announced:
            raise Ended(2 if status == 2 else 1)
        self._control_restarts += 1
        pause = self._control_pause.ended()
        log.error(
            "the control plane ended with status %s; starting it again in %.1f s. Envoy serves on with what it has",
            status,
            pause,
        )
        self._start_control_at = now + pause

    def _drop_link(self) -> None:
        if self._link is not None:
            self._selector.unregister(self._link)
            self._link.close()
            self._link = None

    def _tell(self) -> None:
        if self._link is not None:
            pid = self._envoy.pid if self._envoy is not None else None
            self._link.send_state(
                EnvoyState(pid, self._envoy_restarts, self._live, self._draining, self._control_restarts)
            )

    # --- Envoy ---

    def _start_envoy(self) -> None:
        self._start_envoy_at = None
        self._envoy_admin.unlink(missing_ok=True)
        ours = self._control_main is not None
        config = bootstrap(
            BootstrapOptions(
                control=(
                    str(self._folder / CONTROL_SOCKET) if ours or not self._options.xds else self._options.xds
                ),
                admin_socket=str(self._envoy_admin),
                node_id="gateway" if ours else f"data-plane-{socket.gethostname()}-{self._listen_port}",
                listen="" if ours else self._listen_text,
            )
        )
        try:
            command = supervisor_envoy.command(config, self._folder, self._options.envoy)
            self._envoy = supervisor_process.start(command, supervisor_envoy.environment(self._folder))
        except OSError as error:
            raise StartError(f"cannot start Envoy: {error}") from None
        self._envoy_ready_by = time.monotonic() + START_DEADLINE_S
        self._tell()

    def _watch_envoy(self) -> None:
        now = time.monotonic()
        if self._envoy is None:
            if self._start_envoy_at is not None and now >= self._start_envoy_at:
                self._start_envoy()
            return
        status = self._envoy.poll()
        if status is None:
            if self._live:
                self._look_whether_it_hangs(now)
            else:
                self._look_whether_live(now)
            return
        self._envoy = None
        self._live = False
        self._tell()
        if not self._announced:
            raise StartError(f"Envoy ended with status {status} before it was ready; its log above says why")
        pause = self._envoy_pause.ended()
        if self._envoy_pause.ends >= _CRASHES:
            log.critical("Envoy ended %d times in %.0f s; giving up", _CRASHES, CRASH_WINDOW_S)
            raise Ended(1)
        self._envoy_restarts += 1
        log.error("Envoy ended with status %s; starting it again in %.1f s", status, pause)
        self._start_envoy_at = now + pause

    def _look_whether_it_hangs(self, now: float) -> None:
        if now < self._ask_envoy_at:
            return
        self._ask_envoy_at = now + _IDLE_S
        if supervisor_envoy.answers(self._envoy_admin):
            self._envoy_answered_at = now
        elif now - self._envoy_answered_at > ENVOY_HANGS_S and self._envoy is not None:
            log.error("Envoy has not answered for %.0f s; ending it", now - self._envoy_answered_at)
            self._envoy.kill()

    def _look_whether_live(self, now: float) -> None:
        if supervisor_envoy.takes_traffic(self._envoy_admin):
            self._live = True
            self._envoy_answered_at = now
            self._tell()
            if not self._announced:
                self._announced = True
                print(f"READY {self._listen_text}", flush=True)
        elif now > self._envoy_ready_by and not self._announced:
            hint = "" if self._control_main is not None else "; does the control plane at --xds answer?"
            raise StartError(f"Envoy was not ready within {START_DEADLINE_S:.0f} s{hint}")
        elif now > self._envoy_ready_by and self._control is not None and self._envoy is not None:
            log.error("Envoy was not ready within %.0f s; ending it", START_DEADLINE_S)
            self._envoy_ready_by = now + START_DEADLINE_S
            self._envoy.kill()

    @property
    def _listen_text(self) -> str:
        host, port = self._options.listen_host, self._listen_port
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    # --- the loop ---

    def _pause(self) -> float:
        """Seconds until something is to be looked at even if nothing is heard."""
        now = time.monotonic()
        if self._envoy is not None and not self._live:
            return _POLL_S
        times = [t for t in (self._start_control_at, self._start_envoy_at) if t is not None]
        if self._control is not None:
            times.append(self._expect_by)
        return max(0.0, min([now + _IDLE_S, *times]) - now) + 0.001

    def _wait(self, timeout_s: float) -> None:
        """Until a child says something or ends, or a signal comes, or the time is over."""
        for key, _ in self._selector.select(timeout_s):
            if key.fileobj is self._waker:
                with contextlib.suppress(BlockingIOError):
                    self._waker.recv(4096)

    @contextlib.contextmanager
    def _signals_caught(self) -> Iterator[None]:
        self._waker, sender = socket.socketpair()
        with self._waker, sender:
            self._waker.setblocking(False)
            sender.setblocking(False)
            signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
            self._selector.register(self._waker, selectors.EVENT_READ)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
                signal.signal(number, self._caught)
            try:
                yield
            finally:
                # A signal that comes now must not interrupt the end.
                for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                    signal.signal(number, signal.SIG_IGN)
                signal.set_wakeup_fd(-1)
                self._selector.close()

    def _caught(self, number: int, frame: FrameType | None) -> None:
        self._signals.add(number)

    # --- the end ---

    def _drain(self) -> None:
        """Unready, tell the callers to go, wait for the calls in flight to a deadline. A second signal ends it."""
        self._draining = True
        self._tell()
        log.info("draining: health is NOT_SERVING")
        self._linger(self._options.drain_grace_s)
        started = time.monotonic()
        # For DRAIN_S Envoy answers new calls still, with a GOAWAY on every connection that it answers on; then, or
        # as soon as nobody is connected, it stops listening. Only then can it end: a client that spreads its calls
        # connects again at once, and the calls on a connection that is not told to go would end with Envoy. Callers
        # that stay connected without a call for as long again hold up nothing.
        with contextlib.suppress(OSError):
            supervisor_envoy.drain_listeners(self._envoy_admin)
            closed: float | None = None
            while not self._hurried:
                now = time.monotonic()
                if now - started > self._options.drain_deadline_s:
                    log.warning(
                        "calls still in flight after %g s are cut off", self._options.drain_deadline_s
                    )
                    break
                gone = supervisor_envoy.active(self._envoy_admin, "cx") == 0
                if closed is None:
                    if gone or now - started > DRAIN_S:
                        supervisor_envoy.close_listeners(self._envoy_admin)
                        closed = now
                elif gone or (
                    now - closed > DRAIN_S and supervisor_envoy.active(self._envoy_admin, "rq") == 0
                ):
                    break
                self._linger(0.05)
        log.info("drained")

    @property
    def _hurried(self) -> bool:
        return bool(self._signals & {signal.SIGTERM, signal.SIGINT})

    def _linger(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._hurried and (left := until - time.monotonic()) > 0:
            self._wait(left)
            if self._link is not None and self._link.receive() is None:
                self._drop_link()

    def _end_children(self) -> None:
        if self._envoy is not None:
            if self._envoy.poll() is None:
                self._envoy.terminate()
            supervisor_process.end(self._envoy, _END_S)
        self._drop_link()
        if self._control is not None:
            supervisor_process.end(self._control, _CONTROL_END_S)


def _taken(flag: str, host: str, port: int, take: Callable[[str, int], socket.socket]) -> socket.socket:
    try:
        return take(host, port)
    except OSError as error:
        raise StartError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another"
            f" {'port' if flag == '--listen' else 'address'} with {flag}, or stop what uses it"
        ) from None
