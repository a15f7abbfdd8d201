"""The steps that variants share: samples, the exported model in each precision, what the FP32 model answers."""

from __future__ import annotations

from typing import Literal

from trtbuild.core.decoder_shapes import text_shapes
from trtbuild.core.sources import HuggingFaceSource, ModelSource, OnnxSource
from trtbuild.pipeline.plan import Made, Plan, Ref
from trtbuild.recipe.load import LoadedRecipe
from trtbuild.recipe.sources import maker_source, sources
from trtbuild.stages.autocast import AutocastOptions, autocast
from trtbuild.stages.export import adopt, export
from trtbuild.stages.export_decoder import ExportDecoderOptions, export_decoder
from trtbuild.stages.make import make
from trtbuild.stages.observe import observe, observe_onnx
from trtbuild.stages.sample import sample

Precision = Literal["fp32", "fp16", "bf16"]


class SharedSteps:
    """Made when the first variant asks, and once."""

    def __init__(self, loaded: LoadedRecipe, *, elsewhere: bool = False) -> None:
        self.plan = Plan(loaded.recipe.recipe)
        self.recipe = loaded.recipe
        found = sources(loaded, elsewhere=elsewhere)
        self.metric = found.metric
        self.source: ModelSource | Made = found.model
        if (maker := maker_source(loaded)) is not None:
            folder = self.plan.add("make", make, source=maker)["modelfolder"]
            self.source = Made(found.model, "folder", folder)
        self.is_onnx = isinstance(found.model, OnnxSource)
        self.loader = "huggingface" if isinstance(found.model, HuggingFaceSource) else "factory"
        shapes = self.recipe.shapes
        if self.recipe.decoder is not None:
            self.loader, shapes = "decoder", text_shapes(shapes)
        self._samples = self.plan.add("sample", sample, source=found.samples, shapes=shapes)

    @property
    def calibration(self) -> Ref:
        """Samples to calibrate on."""
        return self._samples["calibration"]

    @property
    def selection(self) -> Ref:
        """Samples to choose formats on: the calibration's where the recipe keeps none apart."""
        return self._samples["selection" if self.recipe.data.selection else "calibration"]

    @property
    def evaluation(self) -> Ref:
        """Held-out samples."""
        return self._samples["evaluation"]

    def model(self, precision: Precision, keep_fp32: list[str]) -> Ref:
        """The model in a precision; in 16 bits the nodes that patterns name stay in FP32."""
        exported = self.exported()
        if precision == "fp32":
            return exported
        return self.plan.add(
            f"autocast-{precision}",
            autocast,
            model=exported,
            options=AutocastOptions(precision=precision, keep_fp32=keep_fp32),
            caster="autocast",
        )["onnxmodel"]

    def exported(self) -> Ref:
        """The model in FP32, canonical."""
        if self.is_onnx:
            return self.plan.add("adopt", adopt, source=self.source, shapes=self.recipe.shapes)["onnxmodel"]
        if (decoder := self.recipe.decoder) is not None:
            exporting = ExportDecoderOptions(
                capacity=decoder.capacity, tokenizer=decoder.tokenizer, **self.recipe.export.model_dump()
            )
            return self.plan.add(
                "export",
                export_decoder,
                source=self.source,
                shapes=self.recipe.shapes,
                options=exporting,
                loader=self.loader,
                exporter="pytorch",
            )["onnxmodel"]
        return self.plan.add(
            "export",
            export,
            source=self.source,
            shapes=self.recipe.shapes,
            options=self.recipe.export,
            loader=self.loader,
            exporter="pytorch",
        )["onnxmodel"]

    def truth(self) -> Ref:
        """What the FP32 model answers to the held-out samples."""
        if self.is_onnx:
            step = self.plan.add(
                "observe", observe_onnx, model=self.exported(), evaluation=self.evaluation, interpreter="onnxruntime"
            )
        else:
            step = self.plan.add(
                "observe",
                observe,
                source=self.source,
                evaluation=self.evaluation,
                loader=self.loader,
                exporter="pytorch",
            )
        return step["outputs"]
