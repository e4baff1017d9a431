"""Slurm on this machine alone, in a folder: a controller, one node, and the daemon that authenticates them."""

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "scontrol", "squeue")

CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,batch_sched_delay=0
ReturnToService=2
KillWait=5
NodeName=localhost NodeHostname={host} NodeAddr=127.0.0.1 CPUs=8
PartitionName=all Nodes=localhost Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """A cluster of this machine.

    Args:
        folder: its configuration, state and logs.
        path: folders of programs that jobs find first.
    """

    def __init__(self, folder: Path, path: str) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": f"{path}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
        }

    def call(self, *command: object) -> str:
        """What a program of Slurm says on standard output."""
        done = subprocess.run(list(map(str, command)), env=self.environment, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr}")
        return done.stdout.strip()

    def sbatch(self, *arguments: object) -> str:
        """Submits a script and answers the number of the job."""
        return self.call("sbatch", "--parsable", *arguments)

    def states(self, job: str) -> list[str]:
        """States of a job, or of its tasks, that are still known."""
        found = self.call("scontrol", "show", "job", "-o", job).splitlines()
        return [line.partition("JobState=")[2].split()[0] for line in found]

    def restarts(self, job: str) -> int:
        """How often the job was queued again."""
        return int(self.call("scontrol", "show", "job", "-o", job).partition("Restarts=")[2].split()[0])

    def wait(self, job: str, timeout_s: float = 120.0) -> list[str]:
        """The final states of a job or of its tasks."""
        final = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"}
        until(lambda: set(self.states(job)) <= final, f"job {job} to end", timeout_s, self.describe)
        return self.states(job)

    def describe(self) -> str:
        """What the daemons wrote last."""
        logs = [self.folder / name for name in ("slurmctld.log", "slurmd.log")]
        return "\n".join(log.read_text()[-2000:] for log in logs if log.exists())


def until(
    condition: Callable[[], object], what: str, timeout_s: float = 60.0, describe: Callable[[], str] = lambda: ""
) -> None:
    """Returns when the condition holds.

    Raises:
        TimeoutError: it did not in time.
    """
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {timeout_s:g} s in vain for {what}\n{describe()}")
        time.sleep(0.1)


@contextmanager
def running(folder: Path, path: str) -> Iterator[Slurm]:
    """Slurm, started and in the end stopped with all its jobs.

    Args:
        folder: empty, for all that it writes.
        path: folders of programs that jobs find first.
    """
    slurm = Slurm(folder, path)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    ports = _free_ports(2)
    (folder / "slurm.conf").write_text(
        CONFIGURATION.format(
            folder=folder, host=socket.gethostname().partition(".")[0], controller_port=ports[0], node_port=ports[1]
        )
    )
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    own = {name: f"--{name}-file={folder}/munge.{name}" for name in ("pid", "log", "seed", "key")}
    with ExitStack() as stack:
        daemons = (
            ("munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *own.values()),
            ("slurmctld", "-D"),
            ("slurmd", "-D", "-N", "localhost"),
        )
        for command in daemons:
            stack.enter_context(_daemon(command, slurm))
            if command[0] == "munged":
                until((folder / "munge.socket").exists, "munged")
        until(lambda: _is_idle(slurm), "the node to be idle", 30.0, slurm.describe)
        stack.callback(_end_jobs, slurm)
        yield slurm


@contextmanager
def _daemon(command: tuple[str, ...], slurm: Slurm) -> Iterator[None]:
    with (slurm.folder / f"{command[0]}.out").open("wb") as out:
        process = subprocess.Popen(command, env=slurm.environment, stdout=out, stderr=out)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _is_idle(slurm: Slurm) -> bool:
    try:
        return "State=IDLE" in slurm.call("scontrol", "show", "node", "localhost")
    except RuntimeError:  # the controller does not answer yet
        return False


def _end_jobs(slurm: Slurm) -> None:
    if slurm.call("squeue", "--noheader"):
        slurm.call("scancel", "--user=root")
        until(lambda: not slurm.call("squeue", "--noheader"), "jobs to end", 30.0, slurm.describe)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for own in sockets:
            own.bind(("127.0.0.1", 0))
        return [own.getsockname()[1] for own in sockets]
