"""Where bundles go: one protocol of blobs and tags, one adapter for each kind of place.

reference      how places, tags and digests are spelled
protocol       what every place can do
patience       how often, and how long, to try again
hashing        a digest computed beside the reading
transfer       send and fetch: resumed, retried, every byte checked
referrers      what speaks of a document: signatures, bills of materials, promotions
directory      a folder, in the OCI image layout
object_store   S3, Google Cloud Storage, Azure Blob Storage
oci            a container registry
huggingface    a repository of the Hugging Face Hub

An adapter is imported when a reference names it.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from trtbuild.core import machine
from trtbuild.core.errors import BackendMissing
from trtbuild.destinations.protocol import Destination
from trtbuild.destinations.reference import Reference


@dataclass(frozen=True)
class Adapter:
    """Who serves a scheme."""

    entry: str
    """`module:class`, called with the reference."""
    packages: tuple[str, ...]
    """Distributions it needs beyond trtbuild's own."""


_OBJECT_STORE = Adapter("trtbuild.destinations.object_store:ObjectStore", ("obstore",))
_OCI = Adapter("trtbuild.destinations.oci.registry:Registry", ("httpx",))

ADAPTERS = {
    "dir": Adapter("trtbuild.destinations.directory:Directory", ()),
    "s3": _OBJECT_STORE,
    "gs": _OBJECT_STORE,
    "az": _OBJECT_STORE,
    "oci": _OCI,
    "oci+http": _OCI,
    "hf": Adapter("trtbuild.destinations.huggingface:HuggingFaceHub", ("huggingface_hub",)),
}
"""Every scheme of `trtbuild.destinations.reference.SCHEMES`."""


def open_destination(reference: Reference) -> Destination:
    """The place that a reference names; nothing is asked of it yet. Raises BackendMissing without its library."""
    adapter = ADAPTERS[reference.scheme]
    if missing := [package for package in adapter.packages if machine.package_version(package) is None]:
        raise BackendMissing(
            f"{reference.scheme}:// needs {', '.join(missing)}", hint="pip install 'trtbuild[publish]'"
        )
    module, _, name = adapter.entry.partition(":")
    destination: Destination = getattr(importlib.import_module(module), name)(reference)
    return destination
