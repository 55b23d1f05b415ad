"""Downloads weights of the Hugging Face hub into the hub's own cache: whole, checked, and continued after a break.

huggingface_hub knows the addresses, the tokens and the layout of the cache, and fetches the small files. The weights
themselves come by a request of our own: its downloads begin at 0 again after an interruption, and compare no hash.
It is imported only where something is missing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mixjax.errors import UserError
from mixjax.host import disk_full, progress, storage
from mixjax.models.weights import shards

FILES = ('model.safetensors', shards.INDEX, 'pytorch_model.bin')  # the first of these that there is
BESIDE = ('config.json', 'preprocessor_config.json', 'model.json', 'README.md')  # what describes the weights
PATIENCE = 10  # seconds without an answer
WAITS = (1.0, 2.0, 4.0)  # seconds before asking again, when no byte has come since the last time
RESERVE = 50_000_000  # bytes that are left free
AGAIN = 'give the same command again'


class Unreachable(Exception):
    """The hub gave no answer; the text completes 'no such copy, and ..'."""


class Source(NamedTuple):
    """A repository of the hub, and its place in the cache.

    spec: their name, for messages. repository: OWNER/NAME. revision: a branch, tag or commit.
    cache: the hub's cache folder. folder: the repository's folder in it.
    """

    spec: str
    repository: str
    revision: str
    cache: Path
    folder: Path


class File(NamedTuple):
    """A file of a repository; digest: the SHA-256 of a large one, or the hash of git's object of a small one."""

    name: str
    size: int
    digest: str


class Listing(NamedTuple):
    """The contents of a revision: its commit, its licence ('' if the card has none) and its files, {name: sibling}."""

    commit: str
    licence: str
    files: dict[str, Any]


def is_offline() -> bool:
    """Return whether the user has forbidden downloads."""
    names = ('HF_HUB_OFFLINE', 'TRANSFORMERS_OFFLINE')
    return any(os.environ.get(name, '0').lower() not in ('0', '', 'false', 'no', 'off') for name in names)


def fetch(source: Source, is_here: Callable[[], bool]) -> None:
    """Download the weights of a repository and the files that describe them.

    Only one process of this machine downloads a repository at a time; the others wait for it.

    Args:
      source: where they come from and go to.
      is_here: returns whether the weights are in the cache.

    Raises:
      UserError: the hub has no such weights, or does not give them to this user; or they cannot be kept.
      Unreachable: there is no network, or the user has forbidden its use.
    """
    with _explained(source), _turn(source, aloud=True):
        if is_here():
            return
        listing = _ask(source)
        name = next((name for name in FILES if name in listing.files), None)
        if name is None:
            raise UserError(
                f'weights {source.spec}: {source.repository} has none of {", ".join(FILES)}; '
                f'it holds {_listed(sorted(listing.files))}'
            )
        _get_beside(source, listing)
        files = [_file(source, listing, name)]
        if shards.is_index(name):
            files = [_file(source, listing, shard) for shard in _shards(source, listing, name)]
        _get_large(source, listing, files)
        _point(source, listing.commit)


def fetch_beside(source: Source) -> None:
    """Download only the small files that describe the weights; the exceptions are those of `fetch`."""
    with _explained(source), _turn(source, aloud=False):
        listing = _ask(source)
        _get_beside(source, listing)
        _point(source, listing.commit)


# --- what there is ----------------------------------------------------------------------------------------------------


def _endpoint() -> str | None:
    """Return the hub's address as the user has set it, or None. huggingface_hub reads it only once."""
    return os.environ.get('HF_ENDPOINT', '').rstrip('/') or None


def _ask(source: Source) -> Listing:
    if is_offline():
        raise Unreachable('HF_HUB_OFFLINE forbids a download')
    import huggingface_hub

    api = huggingface_hub.HfApi(endpoint=_endpoint())
    info = api.model_info(source.repository, revision=source.revision, files_metadata=True, timeout=PATIENCE)
    if not re.fullmatch('[0-9a-f]{40}', info.sha or ''):
        raise Unreachable('what answered is not a hub')
    card = info.card_data or {}
    named = card.get('license_name') if card.get('license') in (None, 'other') else None
    licence = clean(named or card.get('license'))
    return Listing(info.sha or '', licence, {one.rfilename: one for one in info.siblings or []})


def clean(licence: Any) -> str:
    """Return the name of a licence as a card gives it, or '' if that is no name."""
    if isinstance(licence, list):
        return ', '.join(filter(None, map(clean, licence[:5])))
    text = licence.strip() if isinstance(licence, str) else ''
    return text if re.fullmatch(r'[\w.+ ()-]{1,80}', text) else ''


def _file(source: Source, listing: Listing, name: str) -> File:
    """Return the size and the hash of a file, from the listing or, where a mirror lists none, by asking for them."""
    one = listing.files[name]
    size, digest = (one.lfs.size, one.lfs.sha256) if one.lfs else (one.size, one.blob_id)
    if size is None or not digest:
        import huggingface_hub

        facts = huggingface_hub.get_hf_file_metadata(_address(source, listing, name), timeout=PATIENCE)
        size, digest = facts.size, facts.etag
    if not isinstance(size, int) or not re.fullmatch('[0-9a-f]{40}|[0-9a-f]{64}', digest or ''):
        raise Unreachable(f'the hub does not say how large {name} is')
    return File(name, size, digest or '')


def _address(source: Source, listing: Listing, name: str) -> str:
    import huggingface_hub

    return huggingface_hub.hf_hub_url(source.repository, name, revision=listing.commit, endpoint=_endpoint())


def _shards(source: Source, listing: Listing, index: str) -> list[str]:
    """Return the names of the files in an index, which is downloaded for this."""
    path = _get_small(source, listing, index)
    try:
        names = list(shards.read(path))
    except ValueError as error:
        raise UserError(f'weights {source.spec}: {index} cannot be read ({error})') from error
    lost = [name for name in names if name not in listing.files]
    if lost:
        raise UserError(f'weights {source.spec}: {index} names {lost[0]}, which {source.repository} does not hold')
    return names


def _listed(names: list[str]) -> str:
    shown = [name[:80] for name in names[:20]]
    return ', '.join(shown + ([f'and {len(names) - 20} more'] if len(names) > 20 else [])) or 'no file'


# --- the download -----------------------------------------------------------------------------------------------------


def megabytes(size: int) -> str:
    """Return a size as people read it: `0.4 MB`, `102 MB`."""
    return f'{size / 1e6:,.1f} MB' if size < 1e7 else f'{size / 1e6:,.0f} MB'


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _get_beside(source: Source, listing: Listing) -> None:
    for name in BESIDE:
        if name in listing.files:
            _get_small(source, listing, name)


def _get_small(source: Source, listing: Listing, name: str) -> Path:
    """Let huggingface_hub put a file into the cache; of a large one that is there already, only its name."""
    import huggingface_hub
    from huggingface_hub import utils

    shown = not utils.are_progress_bars_disabled()
    if shown and os.environ.get('HF_HUB_DISABLE_PROGRESS_BARS') is None:
        utils.disable_progress_bars()
    try:
        return Path(
            huggingface_hub.hf_hub_download(
                source.repository,
                name,
                revision=listing.commit,
                cache_dir=source.cache,
                endpoint=_endpoint(),
                etag_timeout=PATIENCE,
            )  # fmt: skip
        )
    finally:
        if shown and os.environ.get('HF_HUB_DISABLE_PROGRESS_BARS') is None:
            utils.enable_progress_bars()


def _get_large(source: Source, listing: Listing, files: list[File]) -> None:
    """Download files that are not in the cache, say what they are, and show how far they have come."""
    blobs = source.folder / 'blobs'
    storage.make_folder(blobs)
    todo = [file for file in files if not (blobs / file.digest).exists()]
    total, have = sum(file.size for file in todo), sum(_have(blobs, file) for file in todo)
    if todo:
        many = f'{len(files)} files, ' if len(files) > 1 else ''
        on = f' ({megabytes(have)} of them are here already)' if have else ''
        _say(
            f'weights {source.spec}: downloading {source.repository}, revision {source.revision} '
            f'(commit {listing.commit[:7]}), {many}{megabytes(total)}{on}, '
            f'{f"licence {listing.licence}" if listing.licence else "licence not stated"}'
        )
        free = shutil.disk_usage(blobs).free
        if total - have + RESERVE > free:
            raise _full(source, f'{megabytes(total - have)} are missing, and there are {megabytes(free)} free')
    began = time.monotonic()
    moving = sys.stderr.isatty()  # elsewhere the line before and the one after are enough
    bar = progress.Bar(total, f'weights {source.spec}', unit='MB', scale=10**6, done=have) if todo and moving else None
    try:
        for file in todo:
            _get_one(source, listing, file, bar.add if bar else lambda count: None)
    finally:
        if bar:
            bar.close()
    for file in files:
        _get_small(source, listing, file.name)
    if todo:
        took = progress.duration(time.monotonic() - began)
        _say(f'weights {source.spec}: downloaded {megabytes(total - have)} in {took}, into {source.cache}')


def _part(blobs: Path, file: File) -> Path:
    return blobs / f'{file.digest}.mixjax.incomplete'


def _have(blobs: Path, file: File) -> int:
    with contextlib.suppress(OSError):
        return min(_part(blobs, file).stat().st_size, file.size)
    return 0


def _get_one(source: Source, listing: Listing, file: File, add: Callable[[int], None]) -> None:
    """Download a file, beginning where an earlier attempt ended, and move it into place if its hash is right."""
    blobs = source.folder / 'blobs'
    part, tries = _part(blobs, file), 0
    storage.open_append(part).close()
    while (have := _have(blobs, file)) < file.size:
        try:
            _stream(_address(source, listing, file.name), part, file, have, add)
            if _have(blobs, file) < file.size:
                raise ConnectionError('it ended early')
        except Exception as error:
            if not _is_lost(error):
                raise
            now = _have(blobs, file)
            tries = 0 if now > have else tries + 1
            if tries > len(WAITS):
                raise UserError(
                    f'weights {source.spec}: the connection was lost after {megabytes(now)} of '
                    f'{megabytes(file.size)} of {file.name}; {AGAIN}, and it goes on from there'
                ) from error
            if tries:
                time.sleep(WAITS[tries - 1])
    if part.stat().st_size > file.size or _digest(part, file) != file.digest:
        part.unlink()
        raise UserError(
            f'weights {source.spec}: {file.name} came damaged, its content is not what the hub lists; it was deleted; '
            f'{AGAIN} to download it anew'
        )
    os.replace(part, blobs / file.digest)


def _stream(address: str, part: Path, file: File, have: int, add: Callable[[int], None]) -> None:
    """Append to a part of a file what follows it; one byte too many ends it."""
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    headers = {**build_hf_headers(), 'Accept-Encoding': 'identity'}
    if have:
        headers['Range'] = f'bytes={have}-'
    # Redirects to another host, where large files are, lose the token on their way.
    with get_session().stream('GET', address, headers=headers, timeout=PATIENCE) as response:
        if response.is_error:
            response.read()
        hf_raise_for_status(response)
        if have and response.status_code != 206:  # all of it is sent again
            part.unlink()
            add(-have)
            have = 0
        with storage.open_append(part) as out:
            for block in response.iter_bytes():
                out.write(block)
                have += len(block)
                add(len(block))
                if have > file.size:
                    return


def _is_lost(error: Exception) -> bool:
    """Return whether an error is one of the connection or of a busy hub, so that another attempt makes sense."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in (408, 429) or error.response.status_code >= 500
    if isinstance(error, (UserError, OfflineModeIsEnabled)) or disk_full.cause(error):
        return False
    return isinstance(error, ConnectionError) or type(error).__module__.startswith('http')


def _digest(path: Path, file: File) -> str:
    """Return the hash of a file, of the kind by which the hub lists it."""
    if len(file.digest) == 64:
        found = hashlib.sha256()
    else:
        found = hashlib.sha1(b'blob %d\0' % file.size, usedforsecurity=False)  # git's, of small files
    with path.open('rb') as opened:
        while block := opened.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def _point(source: Source, commit: str) -> None:
    """Note which commit the revision is, as the cache's readers expect it; last, when all is there."""
    if source.revision != commit:
        storage.make_folder(source.folder / 'refs')
        storage.write(source.folder / 'refs' / source.revision, commit.encode())


@contextlib.contextmanager
def _turn(source: Source, aloud: bool) -> Iterator[None]:
    """Wait until no other process of this machine downloads the same repository."""
    place = source.cache / '.locks' / source.folder.name
    storage.make_folder(place)
    with storage.open_append(place / 'mixjax.lock') as file, contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if aloud:
                    _say(f'weights {source.spec}: another process is downloading them; waiting for it')
                fcntl.flock(file, fcntl.LOCK_EX)
            stack.callback(fcntl.flock, file, fcntl.LOCK_UN)
        yield


# --- what went wrong --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _explained(source: Source) -> Iterator[None]:
    """Turn what huggingface_hub and the network raise into a sentence for the user."""
    try:
        yield
    except (UserError, Unreachable):
        raise
    except Exception as error:
        raise _explain(source, error) from error


def _full(source: Source, why: str) -> UserError:
    return UserError(
        f'weights {source.spec}: there is no space for them in {source.cache} ({why}); make room, or set HF_HOME to a '
        f'folder on a larger disk, and {AGAIN}'
    )


def _explain(source: Source, error: Exception) -> Exception:
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # it could not ask for a file, and this is why
    spec, repository = source.spec, source.repository
    page = f'{_endpoint() or "https://huggingface.co"}/{repository}'
    signed = _has_token()
    if isinstance(error, errors.GatedRepoError):  # before RepositoryNotFoundError, of which it is one
        then = AGAIN if signed else f'log in with `hf auth login`, and {AGAIN}'
        return UserError(f'weights {spec}: access needs consent to their licence; accept it at {page}, then {then}')
    if isinstance(error, errors.RepositoryNotFoundError):
        if signed:
            way = 'check the name, and whether your account (`hf auth whoami`) may read it'
        else:
            way = 'check the name, or if it is private log in with `hf auth login`'
        return UserError(f'weights {spec}: the hub has no repository {repository} that you may see; {way}')
    if isinstance(error, errors.RevisionNotFoundError):
        return UserError(
            f'weights {spec}: {repository} has no revision {source.revision!r}; leave it out for the newest, or take a '
            f'branch, tag or commit from {page}/commits/main'
        )
    if isinstance(error, errors.DisabledRepoError):
        return UserError(f'weights {spec}: the hub has closed {repository}; take others')
    if isinstance(error, errors.EntryNotFoundError):
        return UserError(f'weights {spec}: a file that {repository} lists is not there; {AGAIN}, or see {page}')
    if isinstance(error, errors.HFValidationError):
        return UserError(f'weights {spec}: {repository} cannot be the name of a repository')
    if isinstance(error, errors.OfflineModeIsEnabled):
        return Unreachable('HF_HUB_OFFLINE forbids a download')
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        if status == 401:
            return UserError(f'weights {spec}: the hub refuses your token; log in again with `hf auth login`')
        if status == 403:
            return UserError(f'weights {spec}: your token may not read {repository}; give it that right at the hub')
        return Unreachable(f'the hub answers with error {status}')
    why = disk_full.cause(error)
    if why in (disk_full.SAID[errno.ENOSPC], disk_full.SAID[errno.EDQUOT]):
        return _full(source, str(why))
    if why is None and isinstance(error, OSError) and error.filename:
        why = f'{error.filename}: {error.strerror}'
    if why:
        return UserError(
            f'weights {spec}: they cannot be kept in {source.cache} ({why}); set HF_HOME to a folder that you may '
            f'write to, and {AGAIN}'
        )
    return Unreachable(f'the hub cannot be reached ({type(error).__name__})')


def _has_token() -> bool:
    import huggingface_hub

    return bool(huggingface_hub.get_token())
