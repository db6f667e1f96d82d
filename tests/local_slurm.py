"""A real Slurm on one machine, in one folder: no systemd, nothing in /etc, as root or as anybody.

    eval "$(python tests/local_slurm.py up DIR --nodes 3)"
    python tests/local_slurm.py kill DIR n2      as if it lost power;   start DIR n2   to plug it in again
    python tests/local_slurm.py down DIR

Wants Debian's slurm-wlm and munge. Every daemon has a pid file in DIR; `down` ends those, and processes whose
environment says that they are tasks of this cluster, and no other.
"""

import argparse
import contextlib
import os
import pwd
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

PROGRAMS = "slurmctld", "slurmd", "sbatch", "srun", "munged"
UP_S = 60
CONF = Path(__file__).parent / "slurm" / "slurm.conf"
TOLD = "SlurmctldParameters=preempt_send_user_signal"
"""With it a preempted job gets its --signal (USR2), without it SIGTERM only."""


def up(folder: Path, nodes: int = 3, cpus: int = 4, gpus: int = 2, owner: int | None = None) -> dict[str, str]:
    """Start a cluster, or the rest of one; -> what its users' environment needs. It ends with process `owner`."""
    folder = folder.resolve()
    for part in ("state", "dev", "munge"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    names = [f"n{number + 1}" for number in range(nodes)]
    if not _running(folder / "slurmctld.pid"):
        _configure(folder, names, cpus, gpus)
        _munge(folder / "munge")
        _call("slurmctld", "-c", "-f", str(folder / "slurm.conf"), env=_own(folder))
    for name in names:
        start_node(folder, name)
    until = time.monotonic() + UP_S
    while (
        idle := _call("sinfo", "-h", "-N", "-p", "main", "-t", "idle", "-o", "%N", env=_own(folder)).split()
    ) != names:
        assert time.monotonic() < until, f"idle: {idle}; read {folder}/*.log"
        time.sleep(0.05)
    if owner is not None:
        guard = [sys.executable, __file__, "guard", str(folder), str(owner)]
        _call(*guard)
    return {"SLURM_CONF": f"{folder}/slurm.conf"}


def start_node(folder: Path, name: str) -> None:
    """Start a node's daemon with a host name and an /etc/hosts of its own, where namespaces are allowed."""
    if _running(folder / f"slurmd.{name}.pid"):
        return
    (folder / f"spool.{name}").mkdir(exist_ok=True)
    start = f"exec slurmd -N {name} -f {shlex.quote(str(folder))}/slurm.conf"
    if _namespaces():
        inside = f"mount --bind {shlex.quote(str(folder))}/hosts /etc/hosts && hostname {name} && {start}"
        _call("unshare", "--mount", "--uts", "sh", "-c", inside, env=_own(folder))
    else:
        _call("sh", "-c", start, env=_own(folder))


def kill_node(folder: Path, name: str) -> None:
    """SIGKILL a node's daemon, its step managers and its tasks: they have no time to tell anybody."""
    doomed = [_running(folder / f"slurmd.{name}.pid")]
    for pid, environment in _members(folder).items():
        if f"SLURMD_NODENAME={name}".encode() in environment:
            doomed += [_parent(pid), pid]
    for pid in dict.fromkeys(filter(None, doomed)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def down(folder: Path) -> None:
    """End the cluster and all of its jobs; the controller first, or it would requeue them."""
    folder = folder.resolve()
    _end([_running(folder / "slurmctld.pid")])
    _end([_running(path) for path in folder.glob("slurmd.*.pid")])
    _end(list(_members(folder)), 2)
    _end([_running(folder / "munge" / "pid")])


def _configure(folder: Path, names: list[str], cpus: int, gpus: int) -> None:
    host, port, apart = socket.gethostname(), _free_ports(len(names) + 1), _namespaces()
    address = {name: f"127.0.77.{n + 1}" if apart else "127.0.0.1" for n, name in enumerate(names)}
    for number in range(gpus):  # a device file has to exist; it is counted, never opened
        with contextlib.suppress(FileExistsError):
            (folder / "dev" / f"gpu{number}").symlink_to("/dev/null")
    known = "".join(f"{ip} {name}\n" for name, ip in address.items())
    (folder / "hosts").write_text(f"127.0.0.1 localhost {host}\n{known}")
    nodes = "\n".join(
        f"NodeName={name} NodeHostname={name if apart else host} NodeAddr={address[name]} Port={port + 1 + n} "
        f"CPUs={cpus} RealMemory=16000 Gres=gpu:{gpus} State=UNKNOWN"
        for n, name in enumerate(names)
    )
    first = int(time.time() - 1.7e9) % 50_000_000 + 1  # no id twice: submitit names files by it
    user = pwd.getpwuid(os.getuid()).pw_name
    conf = CONF.read_text().format(host=host, port=port, user=user, d=folder, nodes=nodes, first=first, told=TOLD)
    (folder / "slurm.conf").write_text(conf)
    gres = f"AutoDetect=off\nNodeName={','.join(names)} Name=gpu File={folder}/dev/gpu[0-{gpus - 1}]\n"
    (folder / "gres.conf").write_text(gres)
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")


def _munge(folder: Path) -> None:
    if _running(folder / "pid"):
        return
    key = folder / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    folder.chmod(0o755)
    files = [f"--{name}-file={folder}/{name}" for name in ("key", "pid", "log", "seed")]
    _call("munged", "--force", f"--socket={folder}/socket", *files)


def _own(folder: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SUBMITIT_"))}
    return kept | {"SLURM_CONF": f"{folder}/slurm.conf", "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}


def _call(*command: str, env: dict[str, str] | None = None) -> str:
    """Output of a command that may leave daemons behind: they would hold a pipe open."""
    own = env or os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    read, write = os.memfd_create("output"), subprocess.DEVNULL
    with os.fdopen(read, "w+") as output:
        done = subprocess.run(command, stdin=write, stdout=output, stderr=subprocess.STDOUT, env=own)
        output.seek(0)
        said = output.read()
    assert done.returncode == 0 or command[0] == "sinfo", f"{shlex.join(command)}: exit {done.returncode}\n{said}"
    return said if done.returncode == 0 else ""


def _namespaces() -> bool:
    return (
        os.getuid() == 0
        and subprocess.run(["unshare", "--mount", "--uts", "true"], capture_output=True).returncode == 0
    )


def _free_ports(count: int) -> int:
    """The first of as many free ports in a row."""
    for base in range(16820, 20000, 20):
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):
            for port in range(base, base + count):
                held.enter_context(socket.socket()).bind(("", port))
            return base
    raise RuntimeError("no free ports")


def _running(path: Path) -> int | None:
    """The process of a pid file, if it is alive and still that daemon."""
    with contextlib.suppress(OSError, ValueError):
        pid = int(path.read_text())
        said = Path(f"/proc/{pid}/cmdline").read_bytes()
        if _alive(pid) and any(name in said for name in (b"slurmctld", b"slurmd", b"munged")):
            return pid
    return None


def _alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def _parent(pid: int) -> int | None:
    """The step manager above a task."""
    with contextlib.suppress(OSError):
        above = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        return above if b"slurmstepd" in Path(f"/proc/{above}/cmdline").read_bytes() else None
    return None


def _members(folder: Path) -> dict[int, list[bytes]]:
    """Tasks and step managers of this cluster, with their environments."""
    found, own = {}, f"SLURM_CONF={folder.resolve()}/slurm.conf".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            environment = (process / "environ").read_bytes().split(b"\0")
            stepd = os.readlink(process / "exe").rpartition("/")[2].startswith("slurmstepd")
            if own in environment and (stepd or any(e.startswith(b"SLURM_JOB_ID=") for e in environment)):
                found[int(process.name)] = environment
    return found


def _end(pids: list[int | None], grace_s: float = 5) -> None:
    left = [pid for pid in pids if pid]
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        until = time.monotonic() + grace_s
        while (left := [pid for pid in left if _alive(pid)]) and time.monotonic() < until:
            time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["up", "down", "kill", "start", "guard"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("name", nargs="?")
    parser.add_argument("--nodes", type=int, default=3)
    asked = parser.parse_args()
    if asked.what == "up":
        print("".join(f"export {name}={value}\n" for name, value in up(asked.folder, asked.nodes).items()), end="")
    elif asked.what == "guard":  # a test run that is killed ends nothing itself
        if os.fork() == 0:
            os.setsid()
            while _alive(int(asked.name)):
                time.sleep(1)
            down(asked.folder)
    elif asked.what == "down":
        down(asked.folder)
    else:
        {"kill": kill_node, "start": start_node}[asked.what](asked.folder.resolve(), asked.name)


if __name__ == "__main__":
    main()
