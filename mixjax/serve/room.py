"""The limits of a server, and how much of them is taken: what does not fit is refused at once, and never waits."""

from __future__ import annotations

from typing import NamedTuple


class Limits(NamedTuple):
    """Limits of a server.

    Attributes:
      body: bytes of a request.
      bodies: bytes of all requests at once.
      pixels: of an image.
      images: of a request.
      queue: images of all requests at once, decoded or computed or waiting for that.
      seconds: from the beginning of a request to its answer.
      batch: images that are computed at once.
      patience: seconds that a batch waits to become larger.
      workers: threads that decode and draw.
    """

    body: int = 32 << 20
    bodies: int = 256 << 20
    pixels: int = 50_000_000
    images: int = 16
    queue: int = 128
    seconds: float = 30.0
    batch: int = 16
    patience: float = 0.004
    workers: int = 2


class Refused(Exception):
    """A request that is not answered: an HTTP status, and one sentence.

    Attributes:
      status: the status.
      sentence: the reason, for the client.
      headers: further headers of the answer.
    """

    def __init__(self, status: int, sentence: str, **headers: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence
        self.headers = {name.replace('_', '-'): value for name, value in headers.items()}


class Room:
    """Count of what all requests hold at this moment; used by the thread of the event loop alone."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.images = self.bytes = 0

    def ticket(self) -> Ticket:
        """Return the ticket of a request that holds nothing yet."""
        return Ticket(self)


class Ticket:
    """Share of one request, held until it is closed, which must be after the last thread that works for it."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._images = self._bytes = 0

    def check_bytes(self, count: int) -> None:
        """Raise `Refused` if a request of so many bytes is too large."""
        most = self._room.limits.body
        if count > most:
            raise Refused(413, f'the request is larger than {most:,} bytes; send smaller images, or fewer')

    def take_bytes(self, count: int) -> None:
        """Hold more bytes; raises `Refused` if the request is too large, or all of them together."""
        self.check_bytes(self._bytes + count)
        limits = self._room.limits
        if self._room.bytes + count > limits.bodies:
            raise _full(f'the requests of this moment are larger than {limits.bodies:,} bytes')
        self._room.bytes += count
        self._bytes += count

    def take_images(self, count: int) -> None:
        """Hold places in the queue; raises `Refused` if there are not so many."""
        limits = self._room.limits
        if count > limits.images:
            raise Refused(413, f'{count} images are too many for a request; send at most {limits.images}')
        if self._room.images + count > limits.queue:
            raise _full(f'the queue is full: {self._room.images} of {limits.queue} images are in it')
        self._room.images += count
        self._images += count

    def close(self) -> None:
        """Give everything back."""
        self._room.images -= self._images
        self._room.bytes -= self._bytes
        self._images = self._bytes = 0


def _full(sentence: str) -> Refused:
    return Refused(503, f'{sentence}; try again in a second', Retry_After='1')
