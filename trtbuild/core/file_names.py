"""Names for files wherever they lie: as short as they can be and still differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path


def distinct_names(files: Iterable[Path], taken: Collection[str] = ()) -> dict[Path, str]:
    """The bare name of each file, or with as many folders before it as tell it from the others and from `taken`.

    A checkout elsewhere gives the same names, so they may enter cache keys and records.
    """
    waiting = list(dict.fromkeys(files))
    names: dict[Path, str] = {}
    used = set(taken)
    length = 0
    while waiting:
        length += 1
        ends = {file: "/".join(file.parts[-length:]) for file in waiting}
        counts = Counter(ends.values())
        for file, end in ends.items():
            if (counts[end] == 1 and end not in used) or length >= len(file.parts):
                names[file] = end
        used |= {names[file] for file in ends if file in names}
        waiting = [file for file in waiting if file not in names]
    return names
