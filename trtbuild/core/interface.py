"""What an engine takes and gives, as the engine itself says: what a server must be told to serve it."""

from __future__ import annotations

from pathlib import Path

from trtbuild.core.errors import ModelError
from trtbuild.core.values import Result

FILE = "interface.json"
"""Where an engine folder keeps it."""
DYNAMIC = -1
"""The length of a dimension that each call decides."""


class IoTensor(Result):
    """One input or output."""

    dtype: str
    """Element type, as numpy and ml_dtypes spell it."""
    dims: list[int]
    """Its lengths, `DYNAMIC` where calls decide."""


class ProfileRange(Result):
    """What one optimization profile takes: the least, usual and greatest shape of each input. An engine of ONNX Runtime
    has one, the range it was built and checked for."""

    name: str
    ranges: dict[str, tuple[list[int], list[int], list[int]]]


class Interface(Result):
    """The inputs and outputs of an engine, in its own order, and the shapes it was built for."""

    inputs: dict[str, IoTensor]
    outputs: dict[str, IoTensor]
    profiles: list[ProfileRange]

    def batches(self) -> list[tuple[int, int, int]] | None:
        """The least, usual and greatest batch of each profile; None where the engine has no batch axis.

        A batch axis is the first one, if every input and output has it dynamic and all inputs of a profile share its
        range: a server may then put requests together along it.
        """
        tensors = [*self.inputs.values(), *self.outputs.values()]
        if not all(tensor.dims and tensor.dims[0] == DYNAMIC for tensor in tensors):
            return None
        found = []
        for profile in self.profiles:
            first = {(least[0], usual[0], greatest[0]) for least, usual, greatest in profile.ranges.values()}
            if len(first) != 1:
                return None
            found.append(first.pop())
        return found

    def write(self, folder: Path) -> None:
        """Write `interface.json` into an engine's folder."""
        (folder / FILE).write_text(self.model_dump_json(indent=1) + "\n")

    @staticmethod
    def read(folder: Path) -> Interface:
        """Read `interface.json` of an engine's folder. Raises ModelError where there is none, or it is damaged."""
        try:
            return Interface.model_validate_json((folder / FILE).read_bytes())
        except OSError as error:
            raise ModelError(
                f"{folder} does not say what its engine takes: it has no {FILE}", hint="build it again"
            ) from error
        except ValueError as error:
            raise ModelError(f"{folder / FILE} is damaged: {error}", hint="build it again") from error
