"""The directory of a zip file with uncompressed entries, as `torch.save` writes them."""

from __future__ import annotations

import struct
from io import BufferedReader

from mixjax.errors import require
from mixjax.models.weights.torch_file.standins import DAMAGED

DIRECTORY_BYTES = 1 << 22


def directory(file: BufferedReader, size: int) -> dict[str, tuple[int, int]]:
    """Return {name: (first byte of its header, length)} of a zip file whose entries are stored uncompressed.

    `zipfile` is not used because it allocates the memory that the file declares.
    """
    tail_at = max(0, size - 65557)  # the last record is 22 bytes and a comment
    file.seek(tail_at)
    tail = file.read(size - tail_at)
    end = tail.rfind(b'PK\x05\x06')
    require(0 <= end <= len(tail) - 22, DAMAGED)
    length, start = struct.unpack_from('<II', tail, end + 12)
    if 0xFFFFFFFF in (length, start):  # beyond 4 GiB the numbers are in a longer record; a locator is before this one
        require(end >= 20 and tail.startswith(b'PK\x06\x07', end - 20), DAMAGED)
        file.seek(min(size, struct.unpack_from('<Q', tail, end - 12)[0]))
        record = file.read(56)
        require(len(record) == 56 and record.startswith(b'PK\x06\x06'), DAMAGED)
        length, start = struct.unpack_from('<QQ', record, 40)
    require(start + length <= size, DAMAGED)
    require(length <= DIRECTORY_BYTES, 'has more entries than any torch file')
    file.seek(start)
    records = file.read(length)
    entries: dict[str, tuple[int, int]] = {}
    at = 0
    while at < length:
        require(at + 46 <= length and records.startswith(b'PK\x01\x02', at), DAMAGED)
        flags, method = struct.unpack_from('<HH', records, at + 8)
        numbers = list(struct.unpack_from('<II', records, at + 20))
        lengths = struct.unpack_from('<HHH', records, at + 28)
        numbers.append(struct.unpack_from('<I', records, at + 42)[0])
        name_at, extra_at = at + 46, at + 46 + lengths[0]
        at += 46 + sum(lengths)
        require(at <= length, DAMAGED)
        # Where a number is all ones the true one is in the extra field; the two sizes must be equal anyway.
        longer = eight_bytes(records[extra_at : extra_at + lengths[1]])
        for index in range(3):
            if numbers[index] == 0xFFFFFFFF and longer:
                numbers[index] = longer.pop(0)
        packed, unpacked, header_at = numbers
        name = records[name_at:extra_at].decode('utf-8', 'replace')
        require(not flags & 1 and method == 0 and packed == unpacked, 'is compressed, which torch files are not')
        require(name not in entries, DAMAGED)
        require(
            '..' not in name.split('/') and name[:1] not in ('/', '\\'), 'has entries that lead out of their folder'
        )
        require(header_at + packed <= size, DAMAGED)
        entries[name] = (header_at, packed)
    # Entries that overlap would make a small file a large one.
    require(sum(packed for _, packed in entries.values()) <= size, DAMAGED)
    return entries


def eight_bytes(extra: bytes) -> list[int]:
    """Return the 8-byte numbers in the extra field of a zip entry."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from('<HH', extra, at)
        if kind == 1:
            length = min(length, len(extra) - at - 4) // 8 * 8
            return list(struct.unpack_from(f'<{length // 8}Q', extra, at + 4))
        at += 4 + length
    return []
