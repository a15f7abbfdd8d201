"""A plan tried out: inserted into the graph as a build would, and run beside the graph in high precision."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from trtbuild.core.artifacts import OnnxModel
from trtbuild.core.dialects import Dialect
from trtbuild.core.errors import DataError
from trtbuild.core.results import Coverage, OperandRanges
from trtbuild.core.roles import Interpreter
from trtbuild.core.stage import Workspace
from trtbuild.stages.insert import InsertOptions

if TYPE_CHECKING:
    import onnx_ir as ir

    from trtbuild.core.quantization import Plan
    from trtbuild.core.tensor_file import Tensors


class Trial:
    """Runs many plans on the same samples."""

    def __init__(
        self,
        model: OnnxModel,
        samples: list[Tensors],
        ranges: OperandRanges | None,
        options: InsertOptions,
        dialect: Dialect,
        interpreter: Interpreter,
        work: Workspace,
    ) -> None:
        if not samples:
            raise DataError(
                "trying out formats needs calibration samples, and there are none",
                hint="set data.calibration to the number of rows to calibrate on, for example 256",
            )
        self._model, self._ranges, self._options, self._dialect = model, ranges, options, dialect
        self._interpreter, self._work = interpreter, work
        self.samples = samples
        self.truth = list(interpreter.interpret(model, samples))
        """The outputs in high precision, batch by batch."""

    def run(self, plan: Plan) -> tuple[list[Tensors], Coverage]:
        """The outputs of the graph with this plan inserted, and what was inserted."""
        from trtbuild.graph import document

        graph, coverage = self._inserted(plan)
        if not any(layer.inserted for layer in coverage.layers):
            return self.truth, coverage
        quantized = self._work.new(OnnxModel, "trial")
        document.save(graph, quantized)
        outputs = list(self._interpreter.interpret(quantized, self.samples))
        shutil.rmtree(quantized.path)  # a large model's trials together would fill the disk
        return outputs, coverage

    def refused(self, plan: Plan) -> dict[str, str]:
        """The modules of a plan that insertion does not take, each with the reason: excluded, dead, not found."""
        refused = self._inserted(plan)[1].refused
        return {module: reason for module, reason in refused.items() if module in plan.modules}

    def _inserted(self, plan: Plan) -> tuple[ir.Model, Coverage]:
        from trtbuild.graph import document, insertion

        graph = document.load(self._model.main)
        coverage = insertion.insert(
            graph,
            plan,
            embeddings=self._options.embeddings,
            exclude=self._options.exclude,
            include=self._options.include,
            attention=self._options.attention,
            residual=self._options.residual,
            ranges=self._ranges.amax if self._ranges else None,
            dialect=self._dialect,
            partial=True,
        )
        return graph, coverage
