"""`mixjax serve`: a page to try networks on, and an API."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import Any

from mixjax.commands.cli import import_modules
from mixjax.commands.parser import Arguments
from mixjax.errors import UserError

TOKEN = 'MIXJAX_TOKEN'  # environment variable: the token, which is not in the list of processes then


def run(arguments: Arguments) -> int:
    """Load the networks, listen, and answer until it is stopped; returns the exit code."""
    try:
        from mixjax.serve import app, server
    except ModuleNotFoundError as error:
        package = (error.name or '').partition('.')[0]
        if package not in ('starlette', 'uvicorn'):
            raise
        raise UserError(f"`mixjax serve` needs {package}: pip install 'mixjax[serve]'") from None
    from mixjax.host import compile_cache
    from mixjax.serve import access
    from mixjax.serve.metrics import Metrics
    from mixjax.serve.room import Limits, Room

    import_modules(arguments['import'])
    limits = Limits(
        queue=arguments['queue'], batch=arguments['batch'], images=min(Limits().images, arguments['queue']),
        workers=arguments['workers'] or min(4, os.cpu_count() or 1),
    )  # fmt: skip
    # Before the networks are loaded, which takes a while: a port in use is said at once.
    bound = server.listen(arguments['host'], arguments['port'])
    with bound:
        rules = access.rules(bound.getsockname()[0], token_of(arguments))
        compile_cache.enable('')
        metrics = Metrics()
        models = {
            name: load(name, workdir, limits, metrics)
            for name, workdir in zip(names(arguments.positional), arguments.positional, strict=True)
        }
        with ThreadPoolExecutor(limits.workers, 'serve-decode') as pool:
            service = app.Service(models, limits, rules, metrics, Room(limits), pool)
            address = server.url(arguments['host'], bound, rules.token)
            server.serve_until_stopped(
                server.make_server(app.make(service), limits.seconds), bound, lambda: say(welcome(address, rules))
            )
            pool.shutdown(wait=False, cancel_futures=True)
        for model in models.values():
            model.close()
    say(f'stopped; {metrics.images:,} {"image was" if metrics.images == 1 else "images were"} predicted')
    return 0


def token_of(arguments: Arguments) -> str:
    """Return the user's token: of the command line, or else of the environment; '' if there is none."""
    return arguments['token'] or os.environ.get(TOKEN, '')


def load(name: str, workdir: str, limits: Any, metrics: Any) -> Any:
    """Return a network, compiled, with its labelled images; prints what it is."""
    from mixjax import inference
    from mixjax.analysis.neighbours import labelled_images
    from mixjax.serve.served import Served

    predictor, labelled = inference.load(workdir), None
    try:
        labelled = labelled_images(workdir, predictor)
        what = f'{len(labelled.features):,} labelled images'
    except UserError as error:
        what = f'no labelled images: {error}'
    say(f'{name}: {predictor.about["model"]}, {len(predictor.classes):,} {_outputs(predictor)}, {what}; compiling')
    return Served(name, predictor, labelled, limits, metrics)


def _outputs(predictor: Any) -> str:
    return 'numbers' if predictor.task.scaled else 'labels' if predictor.task.rows else 'classes'


def names(workdirs: list[str]) -> list[str]:
    """Return a short name for each work directory, all different: the name of its folder."""
    found: list[str] = []
    for workdir in workdirs:
        path = PurePosixPath(os.path.abspath(workdir) if '://' not in workdir else workdir)
        own = path.parent.name if path.name == 'model.safetensors' else path.name
        count = sum(name == own or name.startswith(f'{own}-') and name[len(own) + 1 :].isdigit() for name in found)
        found.append(f'{own}-{count + 1}' if count else own)
    return found


def welcome(address: str, rules: Any) -> str:
    """Return what is printed when the server listens."""
    lines = [f'open {address} in a browser (Ctrl+C ends it)']
    if not rules.loopback:
        lines.append(f'requests need the header  Authorization: Bearer {rules.token}')
        lines.append('nothing is encrypted: in a network that you do not trust put a proxy with TLS in front')
    return '\n'.join(lines)


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)
