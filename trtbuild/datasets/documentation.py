"""Python's own documentation (`pydoc_data.topics`): half a megabyte of English and code that every Python carries.

It makes recipes run without a download. To judge a model for a task, give it text of that task.
"""

from __future__ import annotations

import random

HELD_OUT = 8
"""One document in this many is for evaluation."""


def documents(split: str) -> list[str]:
    """The documentation topics of a split, `calibration` or `evaluation`, in a fixed random order.

    The documentation repeats itself: a paragraph that an earlier topic has is left out of a later one, so that no
    paragraph of more than 60 characters is in both splits.
    """
    from pydoc_data.topics import topics

    seen: set[str] = set()
    found = []
    for _, text in sorted(topics.items()):
        kept = [part for part in text.split("\n\n") if len(part) <= 60 or part.strip() not in seen]
        seen.update(part.strip() for part in text.split("\n\n"))
        found.append("\n\n".join(kept).strip() + "\n")
    random.Random(0).shuffle(found)  # noqa: S311 - an order, not a secret
    return {
        "calibration": [text for number, text in enumerate(found) if number % HELD_OUT],
        "evaluation": found[::HELD_OUT],
    }[split]
