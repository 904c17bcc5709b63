"""PURE: what a queue does not show: requests yet to arrive, work outside the runs, and the runs under way.

- The rate is what the latest arrivals prove: 16, 32 or 64 of them in so short a time, less one standard deviation. It rises
  within 16 arrivals of a burst, and falls as time passes without one. One request alone proves nothing. It is expected of
  a short time; the mean rate of the last quarter of a second, of longer ones.
- The deadlines of the latest arrivals stand for those of the coming ones, and so do the models that they asked.
- Reading and decoding an arrival may take time from the device (on a shared core), and goes before the runs.
"""

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Sequence
from math import exp, inf

from service.scheduling.latency import Devices

PROOFS = (16, 32, 64)  # so many of the latest arrivals prove a rate
SHORTEST_PROOF_S = 0.004  # what comes in less comes at one instant, and proves no rate
LASTING_S = 0.25  # time constant of the lasting rate, some deadlines long
DEADLINES_KEPT = 32  # the latest deadlines stand for the coming ones
BURST_S = 0.1  # a rate that a few arrivals prove is that of so short a time
MEAN_GAIN = 0.05  # an observation: a mean over some twenty
LEAST_FREE = 0.05  # arrivals that cost more time than there is still leave a little to decide with
LEAST_IDLE = 0.03  # callers that wait for their answers take all the time there is, and leave it to a short backlog


class Forecast:
    """The rate and deadlines of the requests to come, and what a request costs, in its run and outside.

    Attributes:
        pace_s: the least run time, on an idle machine, that an arrival takes: the mean over the models asked for.
        overhead_s: what a request costs the device outside its run.
        deciding_s: what any arrival does, until it waits or is shed.
    """

    def __init__(self) -> None:
        # So many arrivals prove the rate of as many, less one standard deviation.
        self._proofs = [(count, count - count**0.5) for count in PROOFS]
        self._arrivals: deque[float] = deque(maxlen=PROOFS[-1])
        self._lasting = 0.0  # arrivals a second at the last one, over a longer time
        self._lasting_at = 0.0
        self._deadlines_s: deque[float] = deque()
        self._ascending_s: list[float] = []
        self.pace_s = 0.0
        self.overhead_s = 0.0
        self.deciding_s = 0.0

    def arrived(self, now: float, deadline_s: float, pace_s: float | None = None) -> None:
        """Count an arrival, due in so many seconds, for a model of this pace, or one that is not known here."""
        if pace_s is not None:
            self.pace_s += MEAN_GAIN * (pace_s - self.pace_s)
        self._arrivals.append(now)
        self._lasting = self.lasting_rate(now) + 1 / LASTING_S
        self._lasting_at = now
        if len(self._deadlines_s) == DEADLINES_KEPT:
            oldest_s = self._deadlines_s.popleft()
            del self._ascending_s[bisect_left(self._ascending_s, oldest_s)]
        deadline_s = max(deadline_s, 0.0)
        self._deadlines_s.append(deadline_s)
        insort(self._ascending_s, deadline_s)

    def observe_overhead(self, cost_s: float, deciding_s: float) -> None:
        """Learn what requests cost the device outside their runs.

        Args:
            cost_s: one that waits for a run, by the mean.
            deciding_s: any arrival until it waits or is shed, by the mean.
        """
        self.overhead_s += MEAN_GAIN * (cost_s - self.overhead_s)
        self.deciding_s += MEAN_GAIN * (deciding_s - self.deciding_s)

    @property
    def shortest_s(self) -> float:
        """The shortest of the latest deadlines; infinite before the first."""
        return self._ascending_s[0] if self._ascending_s else inf

    def rate(self, now: float) -> float:
        """Return the arrivals to expect, per second."""
        arrivals, rate = self._arrivals, 0.0
        for count, proven in self._proofs:
            if len(arrivals) < count:
                break
            rate = max(rate, proven / max(now - arrivals[-count], SHORTEST_PROOF_S))
        return rate

    def lasting_rate(self, now: float) -> float:
        """Return the mean rate of arrivals, per second, over a quarter of a second: what a late answer waits for."""
        return self._lasting * exp(-max(now - self._lasting_at, 0.0) / LASTING_S)

    def coming_before(self, slacks_s: Sequence[float], now: float) -> list[float]:
        """Return how many arrivals to expect that come to be due before each waiting request.

        They come at the rate that is proven, and once that would have lasted as long as a burst may, at the lasting one.

        Args:
            slacks_s: seconds until each waiting request is due, ascending.
            now: seconds.
        """
        rate, overtaking_s = self.rate(now), self.overtaking_s(slacks_s)
        if not overtaking_s or overtaking_s[-1] <= BURST_S:  # they ascend
            return [rate * each_s for each_s in overtaking_s]
        lasting = min(self.lasting_rate(now), rate)
        burst = (rate - lasting) * BURST_S
        return [
            rate * each_s if each_s <= BURST_S else burst + lasting * each_s
            for each_s in overtaking_s
        ]

    def overtaking_s(self, slacks_s: Sequence[float]) -> list[float]:
        """Return for how long arrivals go before each waiting request: E[max(slack - deadline, 0)].

        Times the rate, it is how many requests will come to be due before it.

        Args:
            slacks_s: seconds until each waiting request is due, ascending.
        """
        deadlines_s = self._ascending_s
        if not deadlines_s:
            return [0.0] * len(slacks_s)
        none = bisect_right(slacks_s, deadlines_s[0])  # nearly all, where deadlines are alike
        found, sooner, sum_s, count = [0.0] * none, 0, 0.0, len(deadlines_s)
        for slack_s in slacks_s[none:]:
            while sooner < count and deadlines_s[sooner] < slack_s:
                sum_s += deadlines_s[sooner]
                sooner += 1
            found.append((sooner * slack_s - sum_s) / count)
        return found

    def losing_s(self, busy_s: float, *, alone_s: float, idle_s: float, urgent_s: float) -> float:
        """Return for how long urgent arrivals come that are lost because no device is free: E[min(busy, busy + alone - deadline)].

        Those are not counted that an idle machine could not meet, or that could wait.

        Args:
            busy_s: for how long none is free.
            alone_s: how long before its deadline the run of a request must start.
            idle_s: the shortest deadline that an idle machine meets.
            urgent_s: deadlines that are no shorter are not urgent.
        """
        deadlines_s, until_s = self._ascending_s, busy_s + alone_s
        first = bisect_left(deadlines_s, idle_s)
        lost = deadlines_s[first : bisect_left(deadlines_s, min(until_s, urgent_s), first)]
        if not lost:
            return 0.0
        return sum([min(busy_s, until_s - each_s) for each_s in lost]) / len(deadlines_s)


class Capacity:
    """The devices, and what the runs under way and the arrivals leave of their time.

    Args:
        devices: how many there are, and how slow each is.
        forecast: the requests to come, and what each costs outside its run.
    """

    def __init__(self, devices: Devices, forecast: Forecast) -> None:
        self._devices = devices
        self._forecast = forecast
        self._serving = devices.serving
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

    def lose(self, device: int) -> None:
        """Count with a device, and with its run, no longer; at least one other serves."""
        self._serving.remove(device)
        self._in_flight.pop(device, None)

    def free_device(self) -> int | None:
        """Return the fastest device without a run."""
        if len(self._in_flight) == len(self._serving):
            return None
        free = [each for each in self._serving if each not in self._in_flight]
        return free[0] if len(free) == 1 else min(free, key=self._devices.slowdown)

    def next_device(self) -> int:
        """Return the device that is free, or will be first."""
        free = self.free_device()
        return min(self._in_flight, key=self._in_flight.__getitem__) if free is None else free

    def until_free_s(self, now: float) -> float:
        """Return how long until the next device is free."""
        if len(self._in_flight) < len(self._serving):
            return 0.0
        return max(min(self._in_flight.values()) - now, 0.0)

    def paces_s(self, runs_s: Sequence[float], now: float) -> list[float]:
        """Return, for models whose requests take so long at least, the least time between two that wait and are done.

        That is run and reply, beside the arrivals that are read meanwhile.
        """
        outside_s, free = self._forecast.overhead_s / 2, self._free_share(now)
        return [self._each_s(run_s, outside_s) / free for run_s in runs_s]

    def unread_pace_s(self, now: float) -> float:
        """Return the same of requests that are still to be read, whatever model they ask."""
        each_s = self._each_s(self._forecast.pace_s, self._forecast.overhead_s)
        return each_s / self._free_share(now)

    def left_s(self, slacks_s: Sequence[float], now: float) -> list[float]:
        """Return the seconds of all devices in each span from now, less what arrivals and the runs under way take."""
        busy_s = sum([max(end_at - now, 0.0) for end_at in self._in_flight.values()])
        free = len(self._serving) - self._forecast.rate(now) * self._forecast.deciding_s
        return [slack_s * free - busy_s for slack_s in slacks_s]

    def steady_s(self, now: float) -> float:
        """Return the devices' time for each arrival at their lasting rate, once it is read."""
        rate = self._forecast.lasting_rate(now)
        return len(self._serving) / rate - self._forecast.deciding_s if rate else inf

    def lost_during(
        self, run_s: float, now: float, *, alone_s: float, idle_s: float, urgent_s: float
    ) -> float:
        """Return how many urgent requests to expect that come during a run, and to which no device comes in time.

        Args:
            run_s: what it takes, on a device that is free.
            now: seconds.
            alone_s, idle_s, urgent_s: see ``Forecast.losing_s``.
        """
        if len(self._in_flight) < len(self._serving) - 1:
            return 0.0
        busy_s = min([run_s, *[end_at - now for end_at in self._in_flight.values()]])
        losing_s = self._forecast.losing_s(
            busy_s, alone_s=alone_s, idle_s=idle_s, urgent_s=urgent_s
        )
        return self._forecast.lasting_rate(now) * losing_s if losing_s else 0.0

    def idle_fraction(self, now: float) -> float:
        """Return the fraction of time that is left if all arrivals are answered."""
        each_s = self._each_s(self._forecast.pace_s, self._forecast.overhead_s)
        return max(1.0 - self._forecast.lasting_rate(now) * each_s, LEAST_IDLE)

    def _each_s(self, run_s: float, outside_s: float) -> float:
        """Return the time from one request to the next where all devices run what takes so long, each at its own speed."""
        slowdowns = self._devices.slowdowns
        if len(self._serving) == 1:
            return run_s * slowdowns[self._serving[0]] + outside_s
        a_second = 0.0
        for device in self._serving:
            a_second += 1 / (run_s * slowdowns[device] + outside_s)
        return 1 / a_second

    def _free_share(self, now: float) -> float:
        """Return the share of the devices' time that reading arrivals leaves."""
        busy = self._forecast.lasting_rate(now) * self._forecast.deciding_s
        return max(1.0 - busy / len(self._serving), LEAST_FREE)
