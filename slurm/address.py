"""Who am I and where is rank 0: what torchrun would have put into the environment, from submitit's."""

import os
import socket
import subprocess
import zlib

from pipeline.errors import InputError

PORTS = range(20000, 32000)
"""Below Linux's ephemeral ports, which any connection may hold."""


def environment(rank: int, size: int, local_rank: int, nodes: list[str], identity: str) -> dict[str, str]:
    """RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT of this task.

    identity  of this start: all ranks derive the port from it, and a later start gets another one

    Raises InputError if the first node's name does not resolve and Slurm knows no address that does.
    """
    found = {
        "RANK": rank,
        "WORLD_SIZE": size,
        "LOCAL_RANK": local_rank,
        "LOCAL_WORLD_SIZE": size // len(nodes),
        "MASTER_ADDR": "127.0.0.1" if len(nodes) == 1 else reachable(nodes[0]),
        "MASTER_PORT": PORTS[zlib.crc32(identity.encode()) % len(PORTS)],
    }
    found |= {} if len(nodes) == 1 else _interface(found["MASTER_ADDR"])
    return {name: str(value) for name, value in found.items()}


def reachable(node: str) -> str:
    """A node's name if it resolves here, else the address that Slurm itself uses (NodeAddr).

    Without this, ranks ask for a name that nobody knows until a timeout of half an hour.
    """
    if _resolves(node):
        return node
    address = node_address(node)
    if address and _resolves(address):
        return address
    raise InputError(
        f"node {node} does not resolve here, and neither does its NodeAddr ({address or 'unknown to scontrol'}); "
        "the cluster's DNS or /etc/hosts lacks it"
    )


def node_address(node: str) -> str | None:
    """NodeAddr in `scontrol show node`."""
    try:
        shown = subprocess.run(["scontrol", "show", "node", node], capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    words = [word.removeprefix("NodeAddr=") for word in shown.split() if word.startswith("NodeAddr=")]
    return words[0] if words else None


def _resolves(name: str) -> bool:
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        return False
    return True


def _interface(master: str) -> dict[str, str]:
    """Gloo listens where the host's own name points: where that is nowhere, or this host only, name the interface.

    Many distributions write "127.0.1.1 <hostname>" into /etc/hosts; other nodes cannot connect to that.
    """
    if "GLOO_SOCKET_IFNAME" in os.environ or not (_local_only(socket.gethostname()) and not _loopback(master)):
        return {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((master, 9))  # sends nothing: it only chooses a route
        source = probe.getsockname()[0]
    name = _named(source)
    return {"GLOO_SOCKET_IFNAME": name} if name else {}


def _local_only(name: str) -> bool:
    return not _resolves(name) or _loopback(name)


def _loopback(name: str) -> bool:
    try:
        return socket.gethostbyname(name).startswith("127.")
    except OSError:
        return False


def _named(address: str) -> str | None:
    import fcntl

    for _, name in socket.if_nameindex():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
            try:
                reply = fcntl.ioctl(asked.fileno(), 0x8915, name.encode().ljust(256, b"\0"))  # SIOCGIFADDR
            except OSError:
                continue
        if socket.inet_ntoa(reply[20:24]) == address:
            return name
    return None
