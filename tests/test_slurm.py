"""script/slurm.sh on a real Slurm of one node: SLURM=1 bash script/test.sh tests/test_slurm.py

Needs Debian's slurm-wlm and root. It starts a controller and a node daemon of its own, on ports of its own, and stops
them.
"""

import os
import shutil
import socket
import subprocess
import time

import pytest

from tests.commands import command, output_of
from tests.test_scripts import project  # noqa: F401

CONFIGURATION = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SwitchType=switch/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
MaxArraySize=4
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=local Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
# Tiny trainings, but for the levels: long enough to be killed in one.
FLAGS = "--train-images-per-class 4 --batch-size 20 --warmup-epochs 1 --level-epochs 40 --final-epochs 1"

pytestmark = pytest.mark.skipif(
    os.environ.get("SLURM") != "1" or shutil.which("slurmctld") is None or os.geteuid() != 0,
    reason="SLURM=1, as root, where Debian's slurm-wlm is installed",
)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_until(condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.2)


@pytest.fixture
def cluster(tmp_path):
    """The environment in which Slurm's commands speak to a cluster of this machine."""
    (tmp_path / "state").mkdir()
    (tmp_path / "spool").mkdir()
    host = socket.gethostname().split(".")[0]
    configuration = tmp_path / "slurm.conf"
    ports = {"controller_port": free_port(), "node_port": free_port()}
    configuration.write_text(CONFIGURATION.format(host=host, folder=tmp_path, **ports))
    reached = {"SLURM_CONF": str(configuration)}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    daemons = [
        subprocess.Popen([program, "-D"], env=os.environ | reached, **quiet) for program in ("slurmctld", "slurmd")
    ]
    try:
        wait_until(lambda: "idle" in command("sinfo", "-h", **reached).stdout, 60)
        yield reached
    finally:
        for daemon in daemons:
            daemon.terminate()
            daemon.wait()


def test_a_killed_and_requeued_task_goes_on(project, cluster):  # noqa: F811
    """What a small figure lacks, as arrays of three tasks; the task that prunes is killed in a level, and
    requeued; then the figure is drawn by the last job."""
    submit = ("bash", "script/slurm.sh", "script/paper/figure3.sh", "--seeds", "1", "--levels", "10", "--", "-c", "1")
    small = {"SCALE": "small", "FLAGS": FLAGS, **cluster}
    submitted = output_of(*submit, cwd=project, **small)
    assert "submitted 7 commands" in submitted, submitted
    first_job = submitted.split("(jobs ")[1].split()[0]
    runs = project / "runs" / "small"
    level = runs / "digits_resnet20_lrr_seed1" / "level_01"
    wait_until(lambda: (level / "metrics.csv").exists())
    assert not (level / "network.pt").exists()
    output_of("scontrol", "requeue", f"{first_job}_1", **cluster)  # kills its processes
    wait_until(lambda: not command("squeue", "-h", **cluster).stdout.strip(), 600)
    figure = runs / "figures" / "figure3"
    assert (figure / "figure3.png").stat().st_size > 10_000
    (logs,) = (project / "runs" / "slurm").iterdir()
    assert (logs / f"{first_job}_1.log").read_text().count("stages are finished") == 2  # it was started twice
    assert "missing" not in (logs / "finish.log").read_text()
    assert "submitted 0 commands (jobs none)" in output_of(*submit, cwd=project, **small)
