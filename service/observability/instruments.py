"""Counters and histograms for one thread: a fifth of a microsecond a value.

prometheus_client's own lock for every value and walk the buckets, which takes over ten times as long, and a request
records a dozen values. Here all of that, and the scrape, is on the event loop.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from time import time

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString


class Counter(Collector):
    """Sums by the values of its labels.

    Args:
        name: without ``_total``.
        documentation: one sentence.
        labels: names of the labels.
        registry: what scrapes it.
    """

    def __init__(
        self, name: str, documentation: str, labels: Sequence[str], *, registry: CollectorRegistry
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._labels = labels
        self._sums: dict[tuple[str, ...], float] = {}
        registry.register(self)

    def inc(self, *labels: str, amount: float = 1.0) -> None:
        """Add to the sum of these label values; an amount of 0 makes the series visible."""
        self._sums[labels] = self._sums.get(labels, 0.0) + amount

    def collect(self) -> Iterator[Metric]:
        """Yield every sum."""
        family = CounterMetricFamily(self._name, self._documentation, labels=self._labels)
        for labels, value in self._sums.items():
            family.add_metric(labels, value)
        yield family


class CounterReader(Collector):
    """A sum that is kept elsewhere, and read when it is scraped.

    Args:
        name: without ``_total``.
        documentation: one sentence.
        registry: what scrapes it.
    """

    def __init__(self, name: str, documentation: str, *, registry: CollectorRegistry) -> None:
        self._name = name
        self._documentation = documentation
        self._read: Callable[[], float] = lambda: 0.0
        registry.register(self)

    def set_function(self, read: Callable[[], float]) -> None:
        """Say what reads the sum."""
        self._read = read

    def collect(self) -> Iterator[Metric]:
        """Yield the sum."""
        yield CounterMetricFamily(self._name, self._documentation, value=self._read())


class Histogram(Collector):
    """Counts of values by bucket, and by the values of its labels.

    Args:
        name: with its unit.
        documentation: one sentence.
        bounds: upper bounds of the buckets, inclusive and ascending; one more bucket has no bound.
        labels: names of the labels.
        registry: what scrapes it.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        bounds: Iterable[float],
        labels: Sequence[str],
        *,
        registry: CollectorRegistry,
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._bounds = tuple(bounds)
        self._edges = [*map(floatToGoString, self._bounds), "+Inf"]
        self._labels = labels
        self._counts: dict[tuple[str, ...], list[int]] = {}
        self._sums: dict[tuple[str, ...], float] = {}
        self._exemplars: dict[tuple[tuple[str, ...], int], Exemplar] = {}
        registry.register(self)

    def show(self, *labels: str) -> None:
        """Make the series of these label values visible before its first value."""
        self._counts.setdefault(labels, [0] * len(self._edges))
        self._sums.setdefault(labels, 0.0)

    def observe(self, value: float, *labels: str, trace_id: str = "") -> None:
        """Count a value; the last one of a trace in each bucket is its example."""
        if labels not in self._counts:
            self.show(*labels)
        bucket = bisect_left(self._bounds, value)
        self._counts[labels][bucket] += 1
        self._sums[labels] += value
        if trace_id:
            self._exemplars[labels, bucket] = Exemplar({"trace_id": trace_id}, value, time())

    def collect(self) -> Iterator[Metric]:
        """Yield every bucket; the library leaves out a sum that might fall, where values may be negative."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        for labels, counts in self._counts.items():
            reached: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
            total = 0
            for bucket, (edge, count) in enumerate(zip(self._edges, counts, strict=True)):
                total += count
                exemplar = self._exemplars.get((labels, bucket))
                told = (edge, float(total))
                reached.append(told if exemplar is None else (*told, exemplar))
            family.add_metric(labels, reached, self._sums[labels])
        yield family


class Processes(Collector):
    """What several processes together take of the machine, under the usual names: ``process_cpu_seconds_total`` and so on.

    Args:
        registry: what scrapes it.

    Attributes:
        pids: of the processes; of one that has ended nothing is told.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.pids: tuple[int, ...] = ()
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Yield the sums; of the start times the first, of the limits of open files the least."""
        gathered: dict[str, list[Metric]] = {}
        for pid in self.pids:
            for family in ProcessCollector(pid=partial(int, pid), registry=None).collect():
                gathered.setdefault(family.name, []).append(family)
        for name, families in gathered.items():
            combine = min if name in ("process_start_time_seconds", "process_max_fds") else sum
            values = [family.samples[0].value for family in families]
            whole = families[0]
            whole.samples = [whole.samples[0]._replace(value=combine(values))]
            yield whole
