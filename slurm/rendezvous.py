"""Set the environment by which a rank finds rank 0, as torchrun would, from what submitit knows of the job."""

import fcntl
import os
import socket
import subprocess
import zlib

from pipeline.errors import InputError

PORTS = range(20000, 32000)
"""Ports for rank 0: below Linux's ephemeral ports, which any connection may hold."""
SIOCGIFADDR = 0x8915


def environment(rank: int, size: int, local_rank: int, nodes: list[str], start_id: str) -> dict[str, str]:
    """Return RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT of this task.

    start_id  name of this start of the job: all ranks derive the port from it, and a later start gets another port

    Raises InputError if the first node's name does not resolve and Slurm knows no address that does.
    """
    found = {
        "RANK": rank,
        "WORLD_SIZE": size,
        "LOCAL_RANK": local_rank,
        "LOCAL_WORLD_SIZE": size // len(nodes),
        "MASTER_ADDR": "127.0.0.1" if len(nodes) == 1 else resolvable_address(nodes[0]),
        "MASTER_PORT": PORTS[zlib.crc32(start_id.encode()) % len(PORTS)],
    }
    found |= {} if len(nodes) == 1 else _gloo_interface(found["MASTER_ADDR"])
    return {name: str(value) for name, value in found.items()}


def resolvable_address(node: str) -> str:
    """Return a node's name if it resolves here, else the address that Slurm itself uses (NodeAddr).

    A name that does not resolve would keep the ranks waiting until a timeout of half an hour. Raises InputError where
    neither resolves.
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
    """Return NodeAddr of `scontrol show node`; None where scontrol fails or has none."""
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


def _gloo_interface(master: str) -> dict[str, str]:
    """Return GLOO_SOCKET_IFNAME where gloo would listen on an address that other nodes cannot reach.

    gloo listens on the address of the host's own name. Many distributions write "127.0.1.1 <hostname>" into /etc/hosts,
    to which other nodes cannot connect; then the interface of the route to `master` is named.
    """
    if "GLOO_SOCKET_IFNAME" in os.environ or not (_local_only(socket.gethostname()) and not _loopback(master)):
        return {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((master, 9))  # a datagram socket sends nothing here: connecting chooses the route
        source = probe.getsockname()[0]
    name = _interface_of(source)
    return {"GLOO_SOCKET_IFNAME": name} if name else {}


def _local_only(name: str) -> bool:
    return not _resolves(name) or _loopback(name)


def _loopback(name: str) -> bool:
    try:
        return socket.gethostbyname(name).startswith("127.")
    except OSError:
        return False


def _interface_of(address: str) -> str | None:
    """Return the name of the network interface with this IPv4 address."""
    for _, name in socket.if_nameindex():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
            try:
                reply = fcntl.ioctl(opened.fileno(), SIOCGIFADDR, name.encode().ljust(256, b"\0"))
            except OSError:
                continue
        if socket.inet_ntoa(reply[20:24]) == address:
            return name
    return None
