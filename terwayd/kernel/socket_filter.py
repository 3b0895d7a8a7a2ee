"""What a socket hears at all: a program of classic BPF (socket(7), SO_ATTACH_FILTER)."""

from __future__ import annotations

import ctypes
import socket
import struct
from typing import Final

_SO_ATTACH_FILTER: Final = 26  # asm-generic/socket.h
_INSTRUCTION: Final = 8  # bytes of a struct sock_filter


def attach(to: socket.socket, code: bytes) -> None:
    """Have a socket hear only what the program returns anything but 0 for."""
    there = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: the number of instructions and, aligned, where they are
    program = struct.pack("@HP", len(code) // _INSTRUCTION, ctypes.addressof(there))
    to.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
