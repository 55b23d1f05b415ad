"""Numbers of a server in the text format of Prometheus: counters, gauges and histograms."""

from __future__ import annotations

import bisect
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
TYPE = 'text/plain; version=0.0.4; charset=utf-8'


class Histogram:
    """Counts of values up to each of some bounds."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds, self._counts, self._sum = tuple(bounds), [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect.bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, name: str, labels: str = '') -> list[str]:
        """Return the histogram as Prometheus reads it: cumulative counts, their sum and their number."""
        out, total, comma = [], 0, ',' if labels else ''
        for bound, count in zip((*map('{:g}'.format, self._bounds), '+Inf'), self._counts, strict=True):
            total += count
            out.append(f'{name}_bucket{{{labels}{comma}le="{bound}"}} {total}')
        own = f'{{{labels}}}' if labels else ''
        return [*out, f'{name}_sum{own} {self._sum:.9g}', f'{name}_count{own} {total}']


class Metrics:
    """The numbers of a server; threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._seconds = Histogram(SECONDS)
        self._batches: dict[str, Histogram] = {}
        self._images: Counter[str] = Counter()
        self.in_flight = 0

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count an answered request. path: of a route, or 'other'."""
        with self._lock:
            self._requests[path, status] += 1
            if path == '/predict' and status == 200:
                self._seconds.add(seconds)

    def batch(self, model: str, size: int) -> None:
        """Count a computed batch."""
        with self._lock:
            self._batches.setdefault(model, Histogram(SIZES)).add(size)
            self._images[model] += size

    @property
    def images(self) -> int:
        """The number of images that were computed, once for each network."""
        return self._images.total()

    def text(self, gauges: Mapping[str, tuple[str, Callable[[], float]]]) -> str:
        """Return all numbers. gauges: {name: (help, function)} of what is asked for now."""
        with self._lock:
            out = _head('mixjax_requests_total', 'counter', 'Answered requests.')
            out += [
                f'mixjax_requests_total{{path="{path}",code="{status}"}} {count}'
                for (path, status), count in sorted(self._requests.items())
            ]
            out += _head('mixjax_request_seconds', 'histogram', 'Time from a request to its predictions.')
            out += self._seconds.lines('mixjax_request_seconds')
            out += _head('mixjax_batch_images', 'histogram', 'Images of a batch.')
            for model, found in sorted(self._batches.items()):
                out += found.lines('mixjax_batch_images', f'model="{escaped(model)}"')
            out += _head('mixjax_images_total', 'counter', 'Images that were computed.')
            out += [
                f'mixjax_images_total{{model="{escaped(model)}"}} {count}'
                for model, count in sorted(self._images.items())
            ]
        for name, (text, value) in gauges.items():
            out += [*_head(name, 'gauge', text), f'{name} {value():g}']
        return '\n'.join(out) + '\n'


def escaped(text: str) -> str:
    """Return a text for the value of a label."""
    return text.replace('\\', r'\\').replace('"', r'\"').replace('\n', r'\n')


def _head(name: str, kind: str, text: str) -> list[str]:
    return [f'# HELP {name} {text}', f'# TYPE {name} {kind}']
