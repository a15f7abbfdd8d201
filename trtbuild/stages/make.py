"""A model that a recipe's own function makes: trained from scratch, merged, converted."""

from __future__ import annotations

from trtbuild.core.artifacts import ModelFolder
from trtbuild.core.errors import ModelError
from trtbuild.core.python_entry import call_entry
from trtbuild.core.sources import PythonSource
from trtbuild.core.stage import Workspace, stage


@stage(version=1)
def make(source: PythonSource, work: Workspace) -> ModelFolder:
    """Make the model.

    Raises ModelError where the function raises, or leaves no `config.json` in the folder it is given.
    """
    made = work.new(ModelFolder)
    call_entry(source, folder=made.path)
    if not made.main.is_file():
        there = ", ".join(sorted(entry.name for entry in made.path.iterdir())) or "nothing"
        raise ModelError(
            f"{source.entry} left no {ModelFolder.file} in the folder it was given",
            hint=f"it must write a Hugging Face model folder there, as save_pretrained(folder) does; it wrote {there}",
        )
    return made
