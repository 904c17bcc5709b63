"""PURE: the machine's time: what the runs under way hold of it, what arrivals take, and what that leaves."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from service.scheduling.forecast import Forecast
from service.scheduling.latency import LatencyModel

LEAST_FREE = 0.05  # arrivals that cost more time than there is still leave a little to decide with
LEAST_IDLE = 0.03  # callers that wait for their answers take all the time there is, and leave it to a short backlog
MORE_ARRIVALS = 2.0  # standard deviations over the mean, where each arrival takes time

Number = TypeVar("Number", float, NDArray[np.float64])


class Capacity:
    """The devices, and their time.

    Args:
        latency: predicted run latencies; it also says how many devices there are.
        forecast: the requests to come, and what each costs outside its run.
        fastest_s: the least time per request in a run, on an idle machine.
    """

    def __init__(self, latency: LatencyModel, forecast: Forecast, fastest_s: float) -> None:
        self._latency = latency
        self._forecast = forecast
        self._fastest_s = fastest_s
        self._in_flight: dict[int, float] = {}  # device -> when it should be free

    @property
    def is_idle(self) -> bool:
        """Whether no run is under way."""
        return not self._in_flight

    def begin(self, device: int, end_at: float) -> None:
        """Note that a run starts on a device, and when it should end."""
        self._in_flight[device] = end_at

    def end(self, device: int) -> None:
        """Note that a device's run ended."""
        del self._in_flight[device]

    def free_device(self) -> int | None:
        """Return the fastest device without a run."""
        free = [each for each in range(self._latency.devices) if each not in self._in_flight]
        return min(free, key=self._latency.slowdown, default=None)

    def next_device(self) -> int:
        """Return the device that is free, or will be first."""
        free = self.free_device()
        return min(self._in_flight, key=self._in_flight.__getitem__) if free is None else free

    def until_free_s(self, now: float) -> float:
        """Return how long until the next device is free."""
        if len(self._in_flight) < self._latency.devices:
            return 0.0
        return max(min(self._in_flight.values()) - now, 0.0)

    def busy_s(self, now: float) -> float:
        """Return the seconds of work that the runs under way still have before them."""
        return sum(max(end_at - now, 0.0) for end_at in self._in_flight.values())

    def run_s(self, device: int = 0) -> float:
        """Return the least time per request in a run, as fast as the device now is."""
        return self._fastest_s * self._latency.slowdown(device)

    def pace_s(self, now: float) -> float:
        """Return the least time that a waiting request takes, run and reply, beside the arrivals that are read meanwhile."""
        reply_s = self._forecast.overhead_s / 2
        return (self.run_s() + reply_s) / (self._latency.devices * self.free_fraction(now))

    def unread_s(self, unread: int, now: float) -> float:
        """Return how long so many requests take that are still to be decoded, beside the arrivals that are read meanwhile."""
        each_s = self.run_s() + self._forecast.overhead_s
        return unread * each_s / (self._latency.devices * self.free_fraction(now))

    def idle_fraction(self, now: float) -> float:
        """Return the fraction of time that is left if all arrivals at their lasting rate are answered."""
        each_s = self.run_s() + self._forecast.overhead_s
        busy = self._forecast.lasting_rate(now) * each_s / self._latency.devices
        return max(1.0 - busy, LEAST_IDLE)

    def free_fraction(self, now: float) -> float:
        """Return the fraction of time that reading arrivals leaves."""
        busy = self._forecast.rate(now) * self._forecast.deciding_s / self._latency.devices
        return max(1.0 - busy, LEAST_FREE)

    def arrivals_s(self, coming: Number) -> Number:
        """Return the time that so many arrivals, by expectation, may take outside their runs."""
        deviation: Number = coming**0.5
        return self._forecast.arrival_s * (coming + MORE_ARRIVALS * deviation)

    def left_s(self, slack_s: NDArray[np.float64], rate: float) -> NDArray[np.float64]:
        """Return (n,) the time that all devices have in each slack, less what arrivals take at a rate."""
        machine_s = slack_s * self._latency.devices
        if rate and self._forecast.arrival_s:
            machine_s -= self.arrivals_s(rate * np.maximum(slack_s, 0.0))
        return machine_s
