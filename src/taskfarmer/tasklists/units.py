"""Amounts of memory as people write them."""

from __future__ import annotations

import re

_FACTORS = {"": 1, "B": 1}
for _power, _letter in enumerate("KMGTP", 1):
    _FACTORS |= {_letter: 1024**_power, f"{_letter}IB": 1024**_power, f"{_letter}B": 1000**_power}


def parse_bytes(text: str) -> int:
    """Return the number of bytes: `2GB` is 2 * 1000**3; `2GiB` and, as in Slurm, `2G` are 2 * 1024**3.

    Raises:
        ValueError: the text is no amount of memory.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip(), re.ASCII)
    factor = _FACTORS.get(match[2].upper()) if match else None
    if match is None or factor is None:
        raise ValueError(f"{text!r} is no amount of memory; write 500M, 2GB or 2GiB")
    return int(float(match[1]) * factor)
