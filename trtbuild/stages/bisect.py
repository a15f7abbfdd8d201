"""Which nodes must stay in FP32 for a 16-bit graph to be finite: found by running it, pinned, and run again."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from trtbuild.core.artifacts import OnnxModel, Samples
from trtbuild.core.repairs import Bisection, GuiltyNode
from trtbuild.core.roles import Caster, Interpreter
from trtbuild.core.stage import Workspace, stage
from trtbuild.stages.autocast import AutocastOptions, lower

if TYPE_CHECKING:
    import onnx_ir as ir

    from trtbuild.core.tensor_file import Tensors

_BATCHES_AT_ONCE = 4
"""Broken batches that are looked into before the graph is lowered again."""


class BisectOptions(AutocastOptions):
    """How the graph is lowered, and how it is looked into."""

    everywhere: bool = False
    """Whether overflow inside the graph counts although the outputs are finite: an infinity that a division turned
    into zero is wrong all the same."""
    slice: int = Field(default=256, ge=1)
    """Tensors to measure in one run: what bounds the memory."""
    casts: int = Field(default=20, ge=1)
    """How many times to lower the graph at most."""


@stage(version=1)
def bisect(
    model: OnnxModel,
    samples: Samples,
    options: BisectOptions,
    caster: Caster,
    interpreter: Interpreter,
    work: Workspace,
) -> Bisection:
    """Find the nodes that make NaN or infinity in 16 bits.

    `model` is the FP32 graph. Only its finite tensors count: what the model itself makes infinite is meant so.
    """
    from trtbuild.core.tensor_file import Batches  # numpy and the ONNX floor are heavy; a plan must not load them

    return _Bisection(model, list(Batches(samples.main)), options, caster, interpreter, work).run()


class _Bisection:
    def __init__(
        self,
        model: OnnxModel,
        batches: list[Tensors],
        options: BisectOptions,
        caster: Caster,
        interpreter: Interpreter,
        work: Workspace,
    ) -> None:
        from trtbuild.graph import document, pinning

        self._model, self._batches, self._options = model, batches, options
        self._caster, self._interpreter, self._work = caster, interpreter, work
        self._original = document.load(model.main).graph
        self._kept = dict.fromkeys(pinning.pinned(self._original, options.keep_fp32), "the recipe asks for it")
        self._asked = set(self._kept)
        self._guilty: dict[str, GuiltyNode] = {}
        self._casts = self._broken = 0
        self._exact: dict[int, dict[str, float]] = {}
        self._blamed: dict[int, list[tuple[ir.Node, GuiltyNode]]] = {}

    def run(self) -> Bisection:
        """Lower the graph and keep more of it in FP32, until nothing is broken or nothing is left to keep."""
        while self._casts < self._options.casts:
            lowered = self._lowered()
            broken = self._broken_batches(lowered)
            shutil.rmtree(lowered.path)
            self._broken = self._broken or len(broken)
            if not broken:
                return self._found("")
            added = self._to_keep(broken)
            if not added:
                return self._found("no node is left that FP32 would help; the last one is " + self._last())
            self._kept |= added
        return self._found(
            f"still not finite when the graph was lowered {self._casts} x; the last node is {self._last()}"
        )

    def _lowered(self) -> OnnxModel:
        from trtbuild.graph import pinning

        self._casts += 1
        patterns = pinning.patterns_of(self._original, self._kept)
        lowering = AutocastOptions(
            precision=self._options.precision, keep_io_types=self._options.keep_io_types, keep_fp32=patterns
        )
        return lower(self._model, lowering, self._caster, self._work, f"lowered{self._casts}")

    def _broken_batches(self, lowered: OnnxModel) -> list[int]:
        """Positions of the batches on which something that counts is broken; the guilty nodes of the first few."""
        from trtbuild.graph import document
        from trtbuild.graph.non_finite import float_outputs

        graph = document.load(lowered.main).graph
        names = [value.name or "" for value in graph.outputs]
        if self._options.everywhere:
            names = float_outputs(graph)
        self._blamed = {}
        broken = []
        for number, sizes in enumerate(self._measured(lowered, names, self._batches)):
            if all(map(math.isfinite, sizes.values())):
                continue
            if len(self._blamed) < _BATCHES_AT_ONCE:
                self._blamed[number] = self._nodes(lowered, graph, number)
                if not self._blamed[number]:  # only what the model itself means to be infinite
                    del self._blamed[number]
                    continue
            broken.append(number)
        return broken

    def _to_keep(self, numbers: Sequence[int]) -> dict[str, str]:
        """Nodes to keep in FP32 for these batches, with reasons."""
        from trtbuild.graph.keeping import grown

        added: dict[str, str] = {}
        for number in numbers:
            for node, guilty in self._blamed.get(number, []):
                found = grown(self._original, node, guilty, self._exact[number], self._kept)
                added = {**found, **added}
                if node.name in found or node.name in self._kept:
                    self._guilty.setdefault(guilty.node, guilty)
        return added

    def _nodes(self, lowered: OnnxModel, graph: ir.Graph, number: int) -> list[tuple[ir.Node, GuiltyNode]]:
        """The guilty nodes of one batch."""
        from trtbuild.graph.non_finite import Damage, float_outputs

        batch = [self._batches[number]]
        if number not in self._exact:
            (self._exact[number],) = self._measured(self._model, float_outputs(self._original), batch)
        (found,) = self._measured(lowered, float_outputs(graph), batch)
        damage = Damage(graph, found, self._original, self._exact[number])
        return [(node, damage.describe(node)) for node in damage.guilty(everywhere=self._options.everywhere)]

    def _measured(self, model: OnnxModel, names: list[str], batches: list[Tensors]) -> Iterator[dict[str, float]]:
        """Greatest magnitudes of tensors, batch by batch, in slices of the graph."""
        from trtbuild.graph.non_finite import write_magnitudes

        found: list[dict[str, float]] = [{} for _ in batches]
        for start in range(0, len(names), self._options.slice):
            probe = self._work.new(OnnxModel, "probe")
            outputs = write_magnitudes(model, names[start : start + self._options.slice], probe)
            for sizes, batch in zip(found, self._interpreter.interpret(probe, batches), strict=True):
                sizes |= {name: float(batch[output]) for name, output in outputs.items()}
            shutil.rmtree(probe.path)
        yield from found

    def _last(self) -> str:
        return next(reversed(self._guilty), "unknown")

    def _found(self, unresolved: str) -> Bisection:
        from trtbuild.graph import pinning

        new = {node: reason for node, reason in self._kept.items() if node not in self._asked}
        pinned = {}
        for pattern in pinning.patterns_of(self._original, new):
            # The reason that says most: of a guilty node, else of the first that reads or feeds one.
            members = sorted(pinning.pinned(self._original, [pattern]), key=lambda name: name not in self._guilty)
            pinned[pattern] = new[members[0]]
        return Bisection(
            guilty=list(self._guilty.values()),
            pinned=pinned,
            batches=len(self._batches),
            broken=self._broken,
            casts=self._casts,
            unresolved=unresolved,
        )
