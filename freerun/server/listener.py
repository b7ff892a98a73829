"""The socket that all workers accept from."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import socket
import struct
from typing import Final

from freerun.errors import ConfigError

__all__ = ["BACKLOG", "open_listener", "reject_new_clients"]

BACKLOG: Final = 4096
"""Connections that wait to be accepted."""
_SENDING: Final = 262_144
"""Bytes of answers that the kernel takes from a worker: what has left is noticed in steps of a part of it."""
_PORT_IN_USE: Final = ("--port", "Expected a free port", "Choose another --port, or stop the program that uses it")
_OTHER_MACHINE: Final = ("--host", "Expected an address of this machine", "Use one, such as 127.0.0.1")
_EXPLAINED: Final = {
    errno.EADDRNOTAVAIL: _OTHER_MACHINE,
    errno.EACCES: ("--port", "Expected a port that you may use", "Choose one from 1024 on"),
}
"""The option that is to blame, what was expected and what to do, by the error."""
_SO_ATTACH_FILTER: Final = 26
_DROP_SYN: Final = (
    (0x30, 0, 0, 13),  # load the byte with the flags of TCP
    (0x54, 0, 0, 0x12),  # and SYN | ACK
    (0x15, 0, 1, 0x02),  # if it is SYN alone,
    (0x06, 0, 0, 0),  # keep nothing,
    (0x06, 0, 0, 0xFFFFFFFF),  # else everything
)


def open_listener(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        ConfigError: the host is unknown, or the port is not free.
    """
    where = f"{host}:{port}"
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        # asyncio sends answers without delay (TCP_NODELAY) only on sockets created with this protocol
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        option, expected, fix = _OTHER_MACHINE
        raise ConfigError.single(option, f"{where}: {error.strerror}", expected, fix) from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SENDING)  # its connections inherit it
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        option, expected, fix = _EXPLAINED.get(error.errno or 0, _PORT_IN_USE)
        raise ConfigError.single(option, f"{where}: {error.strerror}", expected, fix) from None
    listener.setblocking(False)
    return listener


def reject_new_clients(listener: socket.socket) -> None:
    """Drop attempts to connect, so that all clients that are already connected can be accepted.

    Closing the socket would reset the connections that no worker has accepted yet. The filter is a program for the
    kernel that keeps no byte of a packet with SYN and without ACK. Where there is no such thing (it is Linux's), the
    last clients are disconnected.
    """
    instructions = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in _DROP_SYN))
    program = struct.pack("HP", len(_DROP_SYN), ctypes.addressof(instructions))
    with contextlib.suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
