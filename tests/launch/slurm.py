"""A real Slurm on this machine for a test: Debian's packages, unpacked without root, one node, loopback only."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGES = (
    'libhwloc15', 'libmunge2', 'munge', 'slurm-wlm-basic-plugins', 'slurm-client', 'slurmctld', 'slurmd', 'liblua5.1-0',
)  # fmt: skip

# Every listener is bound to the address of `localhost`. The node has the name that jax resolves for the
# coordinator. A requeued job may start once the credential of its first start has expired.
CONF = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
PluginDir={plugins}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
MailProg=/bin/true
NodeName=localhost NodeAddr=127.0.0.1 CPUs=64 RealMemory=4096 State=UNKNOWN
PartitionName=test Nodes=localhost Default=YES MaxTime=INFINITE State=UP
"""


class Slurm(NamedTuple):
    """env: in which Slurm's commands work. folder: of its logs and state. ports: its two listeners'."""

    env: dict[str, str]
    folder: Path
    ports: tuple[int, int]

    def call(self, *words: str | Path, cwd: Path | None = None) -> str:
        done = subprocess.run(
            [str(word) for word in words], env=self.env, cwd=cwd, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, f'{words}: {done.stdout}{done.stderr}'
        return done.stdout.strip()

    def unended(self, job: str) -> list[str]:
        waiting = 'PENDING,RUNNING,COMPLETING,CONFIGURING,REQUEUED,SUSPENDED,SIGNALING,STOPPED'
        words = ('squeue', '--noheader', '--array', '--format=%i', f'--jobs={job}', f'--states={waiting}')
        return self.call(*words).split()


def wait_for(done, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f'{what}: not within {seconds:.0f} s'
        time.sleep(0.1)


def unpack(cache: Path) -> Path:
    """The programs, as they lie under /usr; downloaded once."""
    usr = cache / 'root' / 'usr'
    if not (cache / 'unpacked').exists():
        shutil.rmtree(cache, ignore_errors=True)
        cache.mkdir(parents=True)
        download(cache)
        for package in cache.glob('*.deb'):
            subprocess.run(['dpkg', '-x', package, cache / 'root'], check=True)
        (cache / 'unpacked').touch()
    return usr


def download(cache: Path) -> None:
    words = ['apt-get', 'download', '-q', *PACKAGES]
    first = subprocess.run(words, cwd=cache, capture_output=True, text=True)
    if first.returncode:  # a bare machine has no lists of packages yet; ours are our own
        lists = [f'-o=Dir::State::lists={cache}/lists', f'-o=Dir::Cache={cache}/apt']
        (cache / 'lists' / 'partial').mkdir(parents=True)
        (cache / 'apt' / 'archives' / 'partial').mkdir(parents=True)
        for command in (['apt-get', 'update', '-q', *lists], [*words, *lists]):
            done = subprocess.run(command, cwd=cache, capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f'the Debian packages of Slurm cannot be had here: {first.stderr}\n{done.stderr}')


@contextlib.contextmanager
def cluster(cache: Path) -> Iterator[Slurm]:
    """A controller and a node of two cores that take jobs, until the block ends."""
    usr = unpack(cache)
    (libraries,) = usr.glob('lib/*/slurm-wlm')
    folder = Path(tempfile.mkdtemp(prefix='slurm-'))  # short: a socket's path must be
    controller, daemon = free_ports(2)
    conf = folder / 'slurm.conf'
    values = {'controller': controller, 'daemon': daemon, 'folder': folder, 'plugins': libraries}
    conf.write_text(CONF.format(user=getpass.getuser(), **values))
    for name in ('state', 'spool'):
        (folder / name).mkdir()
    key = folder / 'munge.key'
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(128))
    env = {name: value for name, value in os.environ.items() if not name.startswith(('SLURM', 'SBATCH', 'MUNGE'))}
    env |= {
        'SLURM_CONF': str(conf),
        'LD_LIBRARY_PATH': f'{libraries.parent}:{libraries}',
        'PATH': f'{usr}/bin:{env["PATH"]}',
    }
    munge = [f'--key-file={key}', f'--socket={folder}/munge.socket', f'--pid-file={folder}/munged.pid']
    munge += [f'--log-file={folder}/munged.log', f'--seed-file={folder}/munged.seed']
    commands = [
        [usr / 'sbin/munged', '--foreground', '--force', *munge],
        [usr / 'sbin/slurmctld-wlm', '-D', '-c'],
        [usr / 'sbin/slurmd-wlm', '-D', '-N', 'localhost', '-d', usr / 'sbin/slurmstepd-wlm'],
    ]
    daemons = []
    slurm = Slurm(env, folder, (controller, daemon))
    try:
        for command in commands:
            with (folder / 'output.log').open('ab') as log:
                daemons.append(subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True))
            if len(daemons) == 1:
                wait_for((folder / 'munge.socket').exists, 10, 'munged')
        wait_for(lambda: idle(slurm), 30, 'slurmd')
        yield slurm
    finally:
        slurm.call('scancel', f'--user={getpass.getuser()}')
        with contextlib.suppress(AssertionError):
            wait_for(lambda: not slurm.call('squeue', '--noheader'), 10, 'the end of all jobs')
        end(daemons, conf)
        shutil.rmtree(folder, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(('127.0.0.1', 0))
        return [one.getsockname()[1] for one in sockets]


def idle(slurm: Slurm) -> bool:
    done = subprocess.run(['sinfo', '--noheader', '--format=%T'], env=slurm.env, capture_output=True, text=True)
    return done.stdout.strip() == 'idle'


def ours(conf: Path) -> list[int]:
    """Processes that were started with this configuration: the daemons, and what is left of jobs."""
    mark, found = f'SLURM_CONF={conf}'.encode(), []
    for process in Path('/proc').glob('[0-9]*'):
        with contextlib.suppress(OSError):
            if mark in (process / 'environ').read_bytes().split(b'\0') and int(process.name) != os.getpid():
                found.append(int(process.name))
    return found


def end(daemons: list[subprocess.Popen], conf: Path) -> None:
    """No process stays: the daemons are asked, newest first; what does not listen is killed."""
    for daemon in reversed(daemons):
        daemon.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            daemon.wait(10)
    for process in ours(conf):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    for daemon in daemons:
        daemon.wait(10)
