"""An assembler for classic BPF, in the notation of the kernel's bpf_asm (Documentation/networking/filter.rst).

A line is an instruction, perhaps behind a `label:`, perhaps with a comment behind `;`.  Known are those that a look at a
frame needs; jumps lead forward.  A number is written `#0x800`, one that is told later `#name`.  Pure.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_INSTRUCTION: Final = struct.Struct("=HBBI")  # struct sock_filter: code, jump if true, if false, k
_K: Final = struct.Struct("=I")
_K_AT: Final = 4  # bytes into an instruction

# linux/bpf_common.h, and of linux/filter.h SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT
_LOADS: Final = {"ld": 0x00, "ldh": 0x08, "ldb": 0x10}
_ABSOLUTE, _INDEXED, _MEMORY = 0x20, 0x40, 0x60
_EXTENSIONS: Final = {"vlan_avail": 0xFFFFF000 + 48}
_JUMPS: Final = {"jeq": 0x15, "jgt": 0x25, "jge": 0x35, "jset": 0x45}
_INVERTED: Final = {"jne": "jeq", "jle": "jgt", "jlt": "jge"}
_NUMBERED: Final = {"add": 0x04, "and": 0x54, "lsh": 0x64, "ret": 0x06}
_PLAIN: Final = {"tax": 0x07, "addx": 0x0C}
_LINE: Final = re.compile(r"\s*(?:(\w+):)?\s*(?:(\w+)\s*([^;]*?))?\s*(?:;.*)?")


@dataclass(frozen=True, slots=True)
class Program:
    """`struct sock_filter`s, and in which bytes of them which number is missing yet."""

    code: bytes
    missing: tuple[tuple[str, int], ...]

    def filled(self, numbers: Mapping[str, int]) -> bytes:
        """The program with these numbers; KeyError when one is not among them."""
        code = bytearray(self.code)
        for name, at in self.missing:
            _K.pack_into(code, at, numbers[name])
        return bytes(code)


def assemble(text: str) -> Program:
    """ValueError, with the line, for what is no instruction."""
    labels: dict[str, int] = {}
    lines: list[tuple[str, str]] = []
    for line in text.splitlines():
        found = _LINE.fullmatch(line)
        if found is None:
            raise ValueError(f"no instruction: {line.strip()}")
        label, name, operand = found.groups()
        if label:
            labels[label] = len(lines)
        if name:
            lines.append((name, operand))
    code, missing = bytearray(), []
    for at, (name, operand) in enumerate(lines):
        try:
            *instruction, k = _encoded(name, operand, labels, at + 1)
            if isinstance(k, str):
                missing.append((k, at * _INSTRUCTION.size + _K_AT))
                k = 0
            code += _INSTRUCTION.pack(*instruction, k)
        except (ValueError, KeyError, struct.error) as error:
            raise ValueError(f"no instruction: {name} {operand} ({error})") from None
    return Program(bytes(code), tuple(missing))


def _encoded(
    name: str, operand: str, labels: Mapping[str, int], after: int
) -> tuple[int, int, int, int | str]:
    if name in _LOADS:
        return _loaded(_LOADS[name], operand)
    if name == "ldx" and (header := re.fullmatch(r"4\*\(\[(\d+)\]&0xf\)", operand)):
        return 0xB1, 0, 0, int(header[1])
    if name == "ldx":
        return 0x01, 0, 0, _number(operand)
    if name == "st":
        return 0x02, 0, 0, _cell(operand)
    if name in _PLAIN:
        return _PLAIN[name], 0, 0, 0
    if name in _NUMBERED:
        return _NUMBERED[name], 0, 0, _number(operand)
    number, *ways = (part.strip() for part in operand.split(","))
    true, false, *_ = [*(labels[way] - after for way in ways), 0]
    if name in _INVERTED:
        name, true, false = _INVERTED[name], false, true
    return _JUMPS[name], true, false, _number(number)


def _loaded(size: int, operand: str) -> tuple[int, int, int, int]:
    if operand in _EXTENSIONS:
        return size | _ABSOLUTE, 0, 0, _EXTENSIONS[operand]
    if operand.startswith("M"):
        return size | _MEMORY, 0, 0, _cell(operand)
    found = re.fullmatch(r"\[(x\+)?(\d+)\]", operand)
    if found is None:
        raise ValueError("no place to load from")
    return size | (_INDEXED if found[1] else _ABSOLUTE), 0, 0, int(found[2])


def _number(operand: str) -> int | str:
    if not operand.startswith("#"):
        raise ValueError("a number begins with #")
    text = operand[1:]
    return text if text.isidentifier() else int(text, 0) & 0xFFFFFFFF


def _cell(operand: str) -> int:
    return int(operand.removeprefix("M[").removesuffix("]"))
