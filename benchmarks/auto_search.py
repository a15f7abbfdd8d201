"""Our search for a mixture of formats beside ModelOpt's `auto_quantize`: `python benchmarks/auto_search.py`.

The model is MiniLM, the choice INT4 or INT8 weights for each of its linears, as in the variant `int4_auto`. What each
search chose is built of the same calibrated numbers, inserted in the same graph, and measured on the same 128 held-out
sentences; so only the choice differs. ModelOpt's wants bits for an answer, ours an accuracy: ModelOpt's is asked for as
many bits as ours came to, and then for more and more, until the floor holds.

ModelOpt's gradient method needs a loss, and a sentence encoder has no labels: it gets the output projected on random
signs, whose squared gradient has the mean that ours uses. `kl_div` takes the output for logits; it runs the model for
each linear and format, and is asked once. Writes benchmarks/auto_search.json.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[0] = str(ROOT)
sys.path.append(str(ROOT / "recipes" / "minilm"))

import numpy as np  # noqa: E402 - the repository is no installed package

from trtbuild.backends.huggingface import HuggingFace  # noqa: E402
from trtbuild.backends.onnxruntime.backend import OnnxRuntime  # noqa: E402
from trtbuild.core.artifacts import OnnxModel, QuantizationPlan, Samples  # noqa: E402
from trtbuild.core.candidates import BITS, mixed  # noqa: E402
from trtbuild.core.formats import FORMATS  # noqa: E402
from trtbuild.core.quantization import Plan  # noqa: E402
from trtbuild.core.sensitivity import SearchReport  # noqa: E402
from trtbuild.core.tensor_file import Batches  # noqa: E402
from trtbuild.graph import document, insertion  # noqa: E402
from trtbuild.pipeline.build import prepare  # noqa: E402
from trtbuild.pipeline.job import RESULT_FILE  # noqa: E402
from trtbuild.pipeline.store import Store  # noqa: E402
from trtbuild.recipe.load import load  # noqa: E402
from trtbuild.recipe.sources import sources  # noqa: E402

RECIPE, VARIANT = ROOT / "recipes" / "minilm", "int4_auto"
FLOOR = 0.99
"""Of the mean cosine between a sentence's embedding and the FP32 model's: the variant's gate."""
ROWS = 64
STEP = 0.25
"""Bits."""
GRANULARITY = {"int4_awq": {"block_sizes": {-1: 128}}, "w8a16": {"axis": 0}}


def main() -> None:
    """Run both, and write what they cost and came to."""
    with tempfile.TemporaryDirectory() as scratch:
        kept = os.environ.get("TRTBUILD_STORE")
        ours = _Ours(Path(kept or scratch))
        found: dict[str, Any] = {"floor": FLOOR, "trtbuild": ours.told}
        for method in ("gradient", "kl_div"):
            theirs = _Theirs(method, Path(scratch))
            at_equal_bits = ours.measured(theirs.choice(ours.told["bits"]))
            bits, passing = ours.told["bits"], at_equal_bits
            while method == "gradient" and passing["embedding_cosine_mean"] < FLOOR and bits < 8:
                bits += STEP
                passing = ours.measured(theirs.choice(bits))
            found[f"auto_quantize, {method}"] = {
                "seconds": round(theirs.elapsed_s, 1),
                "at equal bits": at_equal_bits,
            } | ({"where the floor holds": passing} if method == "gradient" else {})
            (ROOT / "benchmarks" / "auto_search.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


class _Ours:
    """The variant as a build searches it, and what it takes to measure any other choice."""

    def __init__(self, store: Path) -> None:
        prepare(RECIPE, until="insert", variants=[VARIANT], store=store)
        opened = Store(store)
        actions = {action.step: action for _, action in opened.actions()}

        def folder(step: str, output: str) -> Path:
            return opened.folder_of(actions[step].outputs[output].digest)

        searched = actions[f"{VARIANT}/search"].ingredients
        digests = [searched[f"input.plans.{number}"] for number in range(2)]
        self.plans = {
            next(iter(plan.modules.values())).format: plan
            for plan in (Plan.read(QuantizationPlan(opened.folder_of(digest))) for digest in digests)
        }
        self._model = OnnxModel(folder("export", "onnxmodel"))
        self._samples = Batches(Samples(folder("sample", "evaluation")).main)
        self._truth = list(OnnxRuntime().interpret(self._model, self._samples))
        report = SearchReport.model_validate_json((folder(f"{VARIANT}/search", "searched") / RESULT_FILE).read_bytes())
        choice = {module: chosen.format for module, chosen in report.choices.items()}
        seconds = [actions[f"{VARIANT}/{stage}"].elapsed_s for stage in ("sensitivity", "search")]
        self.told = {**self.measured(choice), "seconds": round(sum(seconds), 1), "trials": len(report.evaluations)}

    def measured(self, choice: dict[str, str]) -> dict[str, Any]:
        """The bits of a weight and the accuracy of a choice of formats by module; `high` is 16 bits."""
        import minilm

        chosen = {module: form for module, form in choice.items() if form in self.plans}
        graph = document.load(self._model.main)
        insertion.insert(graph, mixed(self.plans, chosen, {}), partial=True)
        with tempfile.TemporaryDirectory() as scratch:
            document.save(graph, quantized := OnnxModel(Path(scratch)))
            outputs = list(OnnxRuntime().interpret(quantized, self._samples))
        metrics = minilm.embedding_agreement(outputs, self._truth, self._samples)
        return {
            "bits": round(self._bits(choice), 3),
            "embedding_cosine_mean": round(metrics["embedding_cosine_mean"], 5),
            "modules": {form: sum(one == form for one in choice.values()) for form in sorted(set(choice.values()))},
        }

    def _bits(self, choice: dict[str, str]) -> float:
        weights = {node.name.rpartition("/")[0]: node.inputs[1] for node in document.load(self._model.main).graph
                   if node.op_type in ("MatMul", "Gemm") and node.name}  # fmt: skip
        sizes = {module: int(np.prod(weights[module].shape.numpy())) for module in choice}
        bits = {module: BITS[FORMATS[form].weight] if form in FORMATS else 16 for module, form in choice.items()}
        return sum(sizes[module] * bits[module] for module in choice) / sum(sizes.values())


class _Theirs:
    """`modelopt.torch.quantization.auto_quantize` on weights alone. The search state is kept between bit counts."""

    def __init__(self, method: str, scratch: Path) -> None:
        import torch

        self._method, self._file = method, str(scratch / f"{method}.pt")
        self.elapsed_s = 0.0
        import minilm

        self._batches = [
            {name: torch.from_numpy(array) for name, array in batch.items()}
            for batch in minilm.sentences("calibration", ROWS)
        ]

    def choice(self, bits: float) -> dict[str, str]:
        """The format of each linear for so many bits of a weight."""
        import torch

        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            import modelopt.torch.quantization as mtq

            random = torch.Generator().manual_seed(0)

            def loss(output: torch.Tensor, _: Any) -> torch.Tensor:
                signs = torch.randint(0, 2, output.shape, generator=random) * 2.0 - 1.0
                return (output * signs).sum() / output.detach().norm()

            def forward(model: Any, batch: Any) -> torch.Tensor:
                returned = model(**batch)
                return next(iter(returned.values())) if isinstance(returned, dict) else returned[0]

            module = HuggingFace().load(sources(load(RECIPE)).model)
            began = time.perf_counter()
            _, state = mtq.auto_quantize(
                module,
                constraints={"effective_bits": bits},
                quantization_formats=[_weights_only(form) for form in GRANULARITY],
                data_loader=self._batches,
                forward_step=forward,
                loss_func=loss if self._method == "gradient" else None,
                disabled_layers=["*pooler*"],
                num_calib_steps=len(self._batches),
                num_score_steps=len(self._batches),
                method=self._method,
                checkpoint=self._file,
            )
        self.elapsed_s = self.elapsed_s or time.perf_counter() - began
        names = {f"CUSTOM_{number}": form for number, form in enumerate(GRANULARITY)}
        return {
            layer.removesuffix(".quant_recipe"): names.get(str(recipe).partition("(")[0], "high")
            for layer, recipe in state["best"]["recipe"].items()
            if "pooler" not in layer
        }


def _weights_only(form: str) -> dict[str, Any]:
    weights = {"num_bits": BITS[FORMATS[form].weight], **GRANULARITY[form]}
    return {
        "quant_cfg": [
            {"quantizer_name": "*", "enable": False},
            {"quantizer_name": "*weight_quantizer", "cfg": weights, "enable": True},
        ],
        "algorithm": "max",
    }


if __name__ == "__main__":
    main()
