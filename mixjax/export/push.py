"""Sending an export to the Hugging Face hub: the files that `write` made, and nothing else of the folder."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from mixjax.errors import UserError
from mixjax.export import write
from mixjax.host import storage
from mixjax.host.storage import Place
from mixjax.models.weights import hub

MESSAGE = 'Add a network, exported by mixjax'
NAME = r'hf://([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)'


class Parcel(NamedTuple):
    """Everything that is sent.

    Attributes:
      repository: OWNER/NAME.
      folder: that of the export.
      files: {name: size in bytes}.
      private: whether a new repository is private.
    """

    repository: str
    folder: Place
    files: Mapping[str, int]
    private: bool

    def words(self) -> list[str]:
        """Return what is sent, a line each."""
        kind = 'private' if self.private else 'public'
        return [f'to {hub.PREFIX}{self.repository}, a {kind} repository if it is new:'] + [
            f'  {name}  {size / 1e6:.2f} MB' for name, size in self.files.items()
        ]


def parcel(folder: Place, address: str, private: bool) -> Parcel:
    """Return what would be sent of an export.

    Args:
      folder: an export; files that the export did not write are left out.
      address: hf://OWNER/NAME.
      private: whether a new repository is private.
    """
    match = re.fullmatch(NAME, address)
    if match is None or '..' in address or '--' in address:
        raise UserError(f'{address}: write {hub.PREFIX}OWNER/NAME, the repository on the hub')
    record = write.record_of(folder)
    names = record.get('files')
    if not isinstance(names, list) or not all(isinstance(name, str) and '/' not in name for name in names):
        raise UserError(f'{folder / write.RECORD} is damaged; export again')
    lost = [name for name in names if not storage.is_file(folder / name)]
    if lost:
        raise UserError(f'{folder} lacks {", ".join(lost)}, which the export wrote; export again')
    return Parcel(match[1], folder, {name: (folder / name).stat().st_size for name in sorted(names)}, private)


def send(what: Parcel) -> str:
    """Send it in one commit, and return the address of the repository's page."""
    import huggingface_hub
    from huggingface_hub import CommitOperationAdd

    api = huggingface_hub.HfApi(endpoint=os.environ.get('HF_ENDPOINT', '').rstrip('/') or None)
    added = [CommitOperationAdd(name, str(what.folder / name)) for name in what.files]
    try:
        address = api.create_repo(what.repository, private=what.private, exist_ok=True)
        api.create_commit(what.repository, added, commit_message=MESSAGE)
    except Exception as error:
        raise UserError(reason(what.repository, error)) from error
    return str(address)


def reason(repository: str, error: Any) -> str:
    """Return in one sentence why nothing could be sent."""
    status = getattr(getattr(error, 'response', None), 'status_code', 0)
    if status == 401 or type(error).__name__ == 'LocalTokenNotFoundError':
        return (
            'the hub does not know who you are: log in with `hf auth login`, or set HF_TOKEN to a token that may write'
        )
    if status == 403:
        return f'your token may not write to {repository}; take one with the right to write, or another OWNER'
    if status:
        return f'the hub refused {repository} (error {status}); nothing was changed there'
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), '')
    return f'the hub cannot be reached ({type(error).__name__}: {text[:200]}); nothing was changed there'
