"""`mixjax export`: write a trained network in a form that other programs read."""

from __future__ import annotations

from mixjax.commands.cli import import_modules
from mixjax.commands.parser import Arguments
from mixjax.host import storage


def run(arguments: Arguments) -> int:
    """Write each form, and print where and what it was compared with; returns the exit code."""
    import_modules(arguments['import'])
    from mixjax.export import network, write

    (workdir,) = arguments.positional
    forms = [write.form_of(name) for name in arguments['to']]  # before anything is computed
    exported = network.read(workdir, images=arguments['images'])
    for form in forms:
        folder = write.folder_of(workdir, form.name)
        if arguments['out']:
            folder = storage.to_place(arguments['out'])
            folder = folder / form.name if len(forms) > 1 else folder
        made = write.export(exported, form.name, folder, arguments['precision'])
        for name, size in made.files.items():
            print(f'{folder / name}  {size / 1e6:.2f} MB', flush=True)
        print(f'{folder / write.CARD}\n{form.name}: {made.verified.words()}', flush=True)
        if made.cost is not None:
            print(made.cost.words(), flush=True)
    return 0
