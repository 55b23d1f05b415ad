"""Detects the cluster that this process belongs to and connects its processes, before any device is touched.

jax detects clusters (Open MPI, Slurm, Cloud TPU, Kubernetes). Added here is when not to ask it: a job of one task is
not a cluster, nor is a shell inside a job of many tasks.
"""

from __future__ import annotations

import os
import sys
import threading
import warnings
from typing import Any, NamedTuple

from mixjax.errors import UserError, require
from mixjax.host import processes

MODES = ('auto', 'on', 'off')
FLAGS = ('distributed', 'coordinator', 'processes', 'process')
MEETING = 300  # seconds in which all processes must have started
LATE = 20  # seconds until a message says that some have not
# Seconds without a heartbeat after which a process counts as dead, and the job ends. A busy machine may be silent for
# a minute; the end of a process is noticed at once, by its connection (mixjax/host/liveness.py).
HEARTBEAT = 100
# The number of tasks of the job step that this process belongs to, and the number of those on this machine.
STEP_TASKS = ('SLURM_STEP_NUM_TASKS', 'OMPI_COMM_WORLD_SIZE')
TASKS_HERE = ('SLURM_STEP_TASKS_PER_NODE', 'SLURM_TASKS_PER_NODE', 'OMPI_COMM_WORLD_LOCAL_SIZE')


class Place(NamedTuple):
    """Place of this process in a cluster.

    Attributes:
      coordinator: 'host:port' of the first process.
      processes: number of processes.
      process: number of this process.
      gpus: numbers of the GPUs that this process uses; None for all.
    """

    coordinator: str
    processes: int
    process: int
    gpus: list[int] | None = None


def join(flags: dict[str, str]) -> str:
    """Connect to the other processes, if there are any.

    Args:
      flags: the cluster flags of the command line.

    Returns:
      A message if something looked like a cluster and is not used as one; else ''.
    """
    mode = flags.get('distributed', 'auto')
    require(mode in MODES, f'--distributed={mode} must be {", ".join(MODES[:-1])} or {MODES[-1]}')
    place = from_flags(flags)
    if mode == 'off':
        require(place is None, '--distributed=off does not go with --coordinator, --processes and --process')
        return ''
    note = ''
    if place is None:
        try:
            place = detected()
        except Exception as error:  # the services that jax asks fail in many ways
            note = f'no cluster is used ({type(error).__name__}: {str(error).strip().partition(chr(10))[0]})'
            # As separate runs, all tasks would write to one work directory.
            require(not many_tasks(), f'{note}; add --coordinator, --processes and --process, or --distributed=off')
    if place is None or (place.processes == 1 and mode == 'auto'):
        require(
            mode == 'auto',
            '--distributed=on: nothing here shows a cluster (Cloud TPU, Slurm, Open MPI, Kubernetes); start each '
            'process with --coordinator=HOST:PORT --processes=N --process=I, or leave the flag out'
            + (f'; {note}' if note else ''),
        )
        return note
    meet(place)
    return ''


def from_flags(flags: dict[str, str]) -> Place | None:
    """Return the place in the cluster that the flags give; None if they give none."""
    given = [name for name in FLAGS[1:] if name in flags]
    if not given:
        return None
    require(len(given) == 3, '--coordinator=HOST:PORT, --processes=N and --process=I go together')
    host, _, port = flags['coordinator'].rpartition(':')
    require(bool(host) and port.isdigit(), f'--coordinator={flags["coordinator"]} must be HOST:PORT')
    numbers = flags['processes'], flags['process']
    require(all(n.isdigit() for n in numbers), '--processes and --process must be whole numbers')
    many, which = map(int, numbers)
    require(which < many, f'--process={which} must be one of 0 to {many - 1} (--processes={many})')
    return Place(flags['coordinator'], many, which)


def detected() -> Place | None:
    """Return the place in the cluster that jax detects; None if there is none, or only one process."""
    if '1' in tasks():
        return None
    from jax._src import clusters

    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # on Kubernetes without its Python package: a single process
        kinds = [kind for kind in clusters.ClusterEnv._cluster_types if not kind.opt_in_only_method]
        kind: Any = next((kind for kind in kinds if kind.is_env_present()), None)
    if kind is None or kind.get_process_count() == 1:
        return None
    port = os.environ.get('JAX_COORDINATOR_PORT')
    address = kind.get_coordinator_address(timeout_secs=MEETING, override_coordinator_port=port)
    return Place(address, kind.get_process_count(), kind.get_process_id(), gpus(kind.get_local_process_id()))


def tasks() -> list[str]:
    """Return the numbers of tasks that the launcher put into environment variables."""
    return [os.environ[name] for name in STEP_TASKS if name in os.environ]


def many_tasks() -> bool:
    """Return whether the launcher has started more than one task."""
    return any(number.isdigit() and int(number) > 1 for number in tasks())


def gpus(task: int | None) -> list[int] | None:
    """Return the GPUs of this process, which is number `task` on its machine; None for all.

    jax would give it the GPU of the same number. That is wrong for the only task of a machine, which has all GPUs,
    and where the scheduler makes only the GPUs of a task visible to it.
    """
    if task is None:
        return None
    here = next((os.environ[name] for name in TASKS_HERE if name in os.environ), '')
    visible = os.environ.get('CUDA_VISIBLE_DEVICES')
    if here.partition('(')[0] == '1' or (visible and task >= len(visible.split(','))):
        return None
    return [task]


def meet(place: Place) -> None:
    """Wait for all processes to connect; from then on they end together."""
    import jax

    waiting = (
        f'mixjax: process {place.process} of {place.processes} waits for the others at {place.coordinator}; '
        f'if they do not connect within {MEETING // 60} minutes jax ends it'
    )
    late = threading.Timer(LATE, print, [waiting], {'file': sys.stderr, 'flush': True})
    late.daemon = True
    late.start()
    # jax's handler of SIGTERM would keep that signal from ending a process.
    jax.config.update('jax_enable_preemption_service', False)
    try:
        jax.distributed.initialize(
            place.coordinator, place.processes, place.process, local_device_ids=place.gpus,
            cluster_detection_method='deactivate', heartbeat_timeout_seconds=HEARTBEAT,
            initialization_timeout=MEETING,
        )  # fmt: skip
    except RuntimeError as error:
        raise UserError(
            f'the {place.processes} processes did not meet at {place.coordinator}: {str(error).splitlines()[0]}'
        ) from error
    finally:
        late.cancel()
    jax.devices()  # the devices must connect too, while no process is waiting for the first one
    processes.watch(place.coordinator.rpartition(':')[0].strip('[]'))
    if not processes.first():  # silences libraries too
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
