"""PURE: predicted run latency: a profile from warm-up, kept current by what is observed.

Predicted = profile(subnetwork, batch size) × slowdown(device) × spread(subnetwork, batch size).

- The profile is measured at warm-up and then fixed; sizes between those profiled are interpolated.
- The slowdown follows the machine within a few runs: one factor a device, because what slows a device down (a
  neighbour, a lower clock) slows all subnetworks of all models alike, so that a run of one corrects the predictions of all.
- The spread is a high quantile of what a run took over what was typical: the price of not being late.
"""

from bisect import bisect_left
from collections.abc import Mapping
from math import exp, log

QUANTILE = 0.98  # of runs that end within the prediction
# Of replies that are written within the reserve. A higher one leaves short deadlines beside other work no time, and a lower
# one gives late answers to those who want none; docs/scheduling.md has the figures.
REPLY_QUANTILE = 0.95
RUN_STEP = 0.02  # of the spread, a run: some twenty that are far longer double it
REPLY_STEP = 0.05  # of the reserve, a reply: after a flood it halves in some 280
NOISE_GAIN = 0.05  # of the way in log space, a run, while runs end as predicted
SURPRISE_GAIN = 0.35  # where they do not: five runs cover 88 % of a change
LARGEST_JUMP = log(4.0)  # one stall of 100 ms is no evidence of a machine a thousand times slower
LEAST_REPLY_S = 50e-6  # what the reserve is taken to be when it moves: it can leave 0
INITIAL_SPREAD = 1.1
LARGEST_SPREAD = 3.0
INITIAL_RESERVE_S = 0.0003  # what a reply takes on an idle core; one stalled reply must not set it


class Devices:
    """What all models on the devices share: how slow each device is now, and what a reply takes.

    Args:
        count: how many there are; each has its own slowdown.
        reserve_s: what a reply is taken to cost before any was observed.
        network_margin_s: what a caller sees of a request before it is read here, and of a reply after it was written.

    Attributes:
        reply_s: within how long after the end of a run the first reply to it is written, 19 times in 20.
        reserve_s: the same until its reply is with the caller.
        serving: the places of those that run requests; of the others nothing is expected any more.
    """

    def __init__(
        self,
        count: int = 1,
        *,
        reserve_s: float = INITIAL_RESERVE_S,
        network_margin_s: float = 0.0,
    ) -> None:
        self.slowdowns: list[float] = []  # stays this list: latency models look at it
        self.serving: list[int] = []
        self.extend(count)
        self._network_margin_s = network_margin_s
        self._take_reply(reserve_s)

    def extend(self, count: int) -> None:
        """Have so many devices, if there are less."""
        for place in range(len(self.slowdowns), count):
            self.slowdowns.append(1.0)
            self.serving.append(place)

    @property
    def idle_reserve_s(self) -> float:
        """What the reserve is without load, at most: under load nothing more of it can be told."""
        return min(self.reply_s, INITIAL_RESERVE_S) + self._network_margin_s

    @property
    def fastest(self) -> int:
        """The device whose runs are over soonest."""
        serving = self.serving
        return serving[0] if len(serving) == 1 else min(serving, key=self.slowdown)

    def slowdown(self, device: int = 0) -> float:
        """Return how many times slower than its profile a device now is."""
        return self.slowdowns[device]

    def observe_reply(self, cost_s: float) -> None:
        """Learn what the first reply to a run took, from the end of the run; admission counts those behind it by their cost."""
        tracked_s = track(
            self.reply_s, cost_s, REPLY_STEP, quantile=REPLY_QUANTILE, least=LEAST_REPLY_S
        )
        self._take_reply(tracked_s)

    def doubt(self) -> None:
        """Go halfway back to what is true of idle devices: what was learnt is old, and forbids to learn more."""
        self.slowdowns[:] = [slowdown**0.5 for slowdown in self.slowdowns]
        self._take_reply(min(self.reply_s, (self.reply_s + INITIAL_RESERVE_S) / 2))

    def _take_reply(self, reply_s: float) -> None:
        self.reply_s = reply_s
        self.reserve_s = reply_s + self._network_margin_s


class LatencyModel:
    """Run latencies of a model by subnetwork, batch size and device.

    Args:
        profile: typical run latency in seconds by subnetwork and batch size, of an idle machine.
        devices: where the runs are, which share the profile; None stands for one that nothing else runs on.

    Raises:
        ValueError: the profile is empty, or a size or latency in it is not positive.
    """

    def __init__(
        self, profile: Mapping[str, Mapping[int, float]], devices: Devices | None = None
    ) -> None:
        if not profile or not all(profile.values()):
            raise ValueError("the latency profile is empty")
        for subnetwork, cells in profile.items():
            for size, latency_s in cells.items():
                if size < 1 or not latency_s > 0:
                    raise ValueError(f"profile of {subnetwork}: {latency_s} s at batch size {size}")
        largest = max(max(cells) for cells in profile.values())
        self._profile = {name: _curve(cells, largest) for name, cells in profile.items()}
        # The spread of a batch is kept with the next larger size that was profiled.
        sizes = {name: sorted(cells) for name, cells in profile.items()}
        self._cells = {
            name: [min(bisect_left(own, size), len(own) - 1) for size in range(largest + 1)]
            for name, own in sizes.items()
        }
        self._spread = {name: [INITIAL_SPREAD] * len(own) for name, own in sizes.items()}
        self.devices = devices or Devices()
        self._slowdown = self.devices.slowdowns

    @property
    def subnetworks(self) -> tuple[str, ...]:
        """What the model covers, in the order of its profile."""
        return tuple(self._profile)

    def profile_s(self, subnetwork: str, batch_size: int) -> float:
        """Return the typical run latency on an idle machine; sizes past the profile cost in proportion."""
        curve = self._profile[subnetwork]
        if batch_size < len(curve):
            return curve[batch_size]
        return curve[-1] * batch_size / (len(curve) - 1)

    def typical_s(self, subnetwork: str, batch_size: int, device: int = 0) -> float:
        """Return the run latency to expect now."""
        return self.profile_s(subnetwork, batch_size) * self._slowdown[device]

    def predict_s(self, subnetwork: str, batch_size: int, device: int = 0) -> float:
        """Return the run latency to plan with: a high quantile."""
        spread = self._spread[subnetwork][self._cell(subnetwork, batch_size)]
        return self.profile_s(subnetwork, batch_size) * self._slowdown[device] * spread

    def alone_s(self, device: int = 0) -> list[float]:
        """Return what ``predict_s`` does of one image, of each subnetwork."""
        slowdown, spreads = self._slowdown[device], self._spread.values()
        return [
            own[1] * slowdown * spread[0]  # the first cell has the least size
            for own, spread in zip(self._profile.values(), spreads, strict=True)
        ]

    def largest_batch(self, subnetwork: str, most: int, limit_s: float, device: int = 0) -> int:
        """Return the largest batch size, at most ``most``, whose run is predicted to end within a limit; 0 if none is."""
        size = most
        while size and self.predict_s(subnetwork, size, device) > limit_s:
            size -= 1
        return size

    def observe(
        self, subnetwork: str, batch_size: int, run_latency_s: float, device: int = 0
    ) -> None:
        """Learn from a run that ended."""
        surprise = max(run_latency_s / self.typical_s(subnetwork, batch_size, device), 1e-3)
        spreads, cell = self._spread[subnetwork], self._cell(subnetwork, batch_size)
        is_noise = 1 / spreads[cell] <= surprise <= spreads[cell]
        spreads[cell] = min(max(track(spreads[cell], surprise, RUN_STEP), 1.0), LARGEST_SPREAD)
        jump = min(max(log(surprise), -LARGEST_JUMP), LARGEST_JUMP)
        self._slowdown[device] *= exp((NOISE_GAIN if is_noise else SURPRISE_GAIN) * jump)

    def doubt(self) -> None:
        """Go halfway back to a spread of none, as the devices do to their profile; see ``Devices.doubt``."""
        self._spread = {name: [each**0.5 for each in row] for name, row in self._spread.items()}

    def _cell(self, subnetwork: str, batch_size: int) -> int:
        cells = self._cells[subnetwork]
        return cells[batch_size] if batch_size < len(cells) else cells[-1]


def _curve(cells: Mapping[int, float], largest: int) -> list[float]:
    """Return latencies by batch size, index 0 unused; below and past the sizes given, in proportion."""
    sizes = sorted(cells)
    curve = [0.0]
    for size in range(1, largest + 1):
        above = bisect_left(sizes, size)
        if above == len(sizes):
            curve.append(cells[sizes[-1]] * size / sizes[-1])
        elif above == 0:
            curve.append(cells[sizes[0]])
        else:
            low, high = sizes[above - 1], sizes[above]
            part = (size - low) / (high - low)
            curve.append(cells[low] * (1 - part) + cells[high] * part)
    return curve


def track(
    estimate: float, value: float, gain: float, *, quantile: float = QUANTILE, least: float = 0.0
) -> float:
    """Move a running quantile by one observation (Robbins-Monro, in steps relative to its size, or to a least size)."""
    size = max(estimate, least)
    step = gain * max(size, min(value, 2 * size))
    return max(estimate + step * (quantile if value > estimate else quantile - 1), 0.0)
