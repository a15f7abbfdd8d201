"""Modules from a Python function that the recipe names."""

from __future__ import annotations

from typing import Any

from trtbuild.core.errors import ModelError
from trtbuild.core.python_entry import call_entry
from trtbuild.core.roles import Loader
from trtbuild.core.sources import ModelSource, PythonSource


class Factory(Loader):
    """Calls the recipe's function, which returns a `torch.nn.Module`."""

    def load(self, source: ModelSource) -> Any:
        """The module that the function returns, in inference mode. Raises ModelError."""
        if not isinstance(source, PythonSource):
            raise ModelError(f"the factory backend loads Python sources, not a source of kind {source.kind!r}")
        module = call_entry(source)
        # Told by its methods, so that this backend needs no torch of its own.
        if isinstance(module, type) or not all(
            callable(getattr(module, name, None)) for name in ("state_dict", "eval")
        ):
            found = f"the class {module.__name__}" if isinstance(module, type) else type(module).__name__
            raise ModelError(
                f"{source.entry} returned {found}, not a torch.nn.Module",
                hint="return the module itself: not a class, not a state_dict, not a tuple",
            )
        return module.eval()
