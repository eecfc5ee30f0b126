"""The constants of the weight controller. docs/balancing.md says how the simulator chose them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tuning:
    """Shares are parts of an endpoint's weight, from 0 to 1; times are seconds."""

    # A share doubles in this time at most, whether earned by answers or by silence: an endpoint that comes back cold
    # sees its calls grow slower than it warms up. From `start` to all of it takes 4 s, from `floor` 10 s.
    doubling_s: float = 1.0
    # What an endpoint that is new in a running pool, or was away, begins with.
    start: float = 1 / 16
    # The least share of a failing endpoint. It costs one call in a thousand in a pool of two.
    floor: float = 1 / 1000
    # How long an endpoint stays where a failure put it before silence earns anything: the first time, and at most. Each
    # failed trial doubles it.
    quiet_s: float = 0.5
    max_quiet_s: float = 4.0
    # An endpoint that misses so many of the calls that it could have expected is out of the data plane's hands
    # (ejected, failing its health check), since chance alone does that once in e^20 times: it will come back cold.
    away_calls: float = 20.0
    # The data plane divides a weight by this power of the calls in flight + 1 (Envoy's active_request_bias), where the
    # policy goes by calls in flight.
    in_flight_bias: float = 2.0
    # Above this share a failure is the first of its kind again, not a failed trial.
    recovered: float = 0.5

    # Latency follows a higher window mean at once, as far as its number of calls lets one trust it, and comes down with
    # this time constant.
    latency_tau_s: float = 3.0
    latency_trust_calls: int = 8
    # Up to so many times the fastest latency is as good as the fastest; beyond, the share falls with this power of the
    # ratio, down to `latency_floor`. With Envoy's active_request_bias of 2 a share is then one over the square of peak
    # EWMA's cost, latency x (in flight + 1): the power brings the schedule nearer to "always the cheapest".
    latency_alike: float = 1.4
    latency_gain: float = 2.0
    latency_floor: float = 1 / 256


DEFAULT = Tuning()
