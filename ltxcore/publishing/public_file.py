"""A LoRA file for publication: the same weights, without the recipe in its header.

The recipe names directories of this machine, its tracking server and the datasets.
"""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Final

PRIVATE: Final = ("recipe",)
METADATA: Final = "__metadata__"
ALIGNMENT: Final = 8


def write_public(source: Path, target: Path) -> Path:
    """Copy a safetensors file without what is private in its header; equal files give equal copies.

    Returns:
        `target`.
    """
    with source.open("rb") as file, target.open("wb") as copy:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        metadata = header.get(METADATA, {})
        header[METADATA] = {name: value for name, value in metadata.items() if name not in PRIVATE}
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        # The weights begin at a multiple of eight, as safetensors itself writes them.
        text += b" " * (-len(text) % ALIGNMENT)
        copy.write(struct.pack("<Q", len(text)) + text)
        shutil.copyfileobj(file, copy, 8 << 20)
    return target
