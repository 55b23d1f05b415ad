"""Messages for a disk that cannot be written to, or too little memory, anywhere in a run."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Iterator

from mixjax.errors import UserError
from mixjax.host.storage import IsLink, Place

# Libraries pass on only the text of the system's errors.
SAID = {code: os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)}

MEMORY = (
    'there is too little memory; lower config.batch_size or config.eval_batch_size, cut batches in parts '
    '(config.accumulate), or read images as they are needed (config.feed=stream)'
)


@contextlib.contextmanager
def explain_write_errors(folder: Place) -> Iterator[None]:
    """Turn errors of the block that come from the disk, or from too little memory, into a `UserError`."""
    try:
        with contextlib.ExitStack() as stack:
            for name in ('absl', 'asyncio'):  # threads that save log the same error there, with a traceback
                logger = logging.getLogger(name)
                logger.addFilter(_unknown)
                stack.callback(logger.removeFilter, _unknown)
            yield
    except UserError:
        raise
    except IsLink as error:
        raise UserError(f'{folder} cannot be written to: {error.strerror}') from error
    except (IsADirectoryError, NotADirectoryError) as error:
        what = error.filename2 or error.filename or folder
        raise UserError(f'{folder} cannot be used: {what}: {error.strerror}; use another --workdir') from error
    except Exception as error:
        why = cause(error)
        if why is None and (isinstance(error, MemoryError) or 'RESOURCE_EXHAUSTED' in str(error)):
            raise UserError(f'{MEMORY} ({(str(error) or "MemoryError").splitlines()[0][:200]})') from error
        if why is None:
            raise
        raise UserError(
            f'{folder} cannot be written to: {why}. What was saved before is whole: make room, and give the same '
            'command again'
        ) from error


def _unknown(record: logging.LogRecord) -> bool:
    """Return whether a log record is about none of the errors that get a message here."""
    return not (record.exc_info and cause(record.exc_info[1]))


def cause(error: BaseException | None) -> str | None:
    """Return the system's text of the disk error that an exception is or was caused by; None if there is none."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in SAID:
            return SAID[error.errno]
        for said in SAID.values():
            if said in str(error):
                return said
        inner = getattr(error, 'exceptions', ())
        found = next((found for one in inner if (found := cause(one))), None)
        if found:
            return found
        error = error.__cause__ or error.__context__
    return None
