"""`mixjax push`: send a trained network to the Hugging Face hub."""

from __future__ import annotations

from mixjax.commands.cli import import_modules
from mixjax.commands.parser import Arguments
from mixjax.host import storage


def run(arguments: Arguments) -> int:
    """Export the network for timm if the folder is no export yet, say what is sent, and send it; returns the code."""
    import_modules(arguments['import'])
    from mixjax.export import network, push, write

    workdir, address = arguments.positional
    folder = storage.to_place(workdir)
    if not storage.is_file(folder / write.RECORD):
        folder = write.folder_of(workdir, 'timm')
        made = write.export(network.read(workdir), 'timm', folder)
        print(f'timm: {made.verified.words()}', flush=True)
    what = push.parcel(folder, address, arguments['private'])
    print('\n'.join(what.words()), flush=True)
    if arguments['dry-run']:
        print('nothing was sent')
        return 0
    print(f'sent: {push.send(what)}')
    return 0
