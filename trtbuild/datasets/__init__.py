"""Sample generators for data that lies in files: text, pictures, recorded sound, tensors.

A recipe names one as its `data.generator` and its files under `data.files`; docs/data.md has a recipe for each. What
goes into which split, and in which order, follows from the content of the samples (`selection.py`), never from the
order or the place of the files.
"""

PACKAGES = {
    "trtbuild.datasets.audio": ("scipy",),
    "trtbuild.datasets.images": ("Pillow",),
    "trtbuild.datasets.passages": ("tokenizers",),
    "trtbuild.datasets.text": ("tokenizers",),
}
"""Distributions whose versions decide what the generators of a module yield."""
