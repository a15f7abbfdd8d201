"""Which formats to try first for a recipe on a machine: by arithmetic and known traps, never by measurement.

The arithmetic is the roofline model (Williams, Waterman, Patterson 2009): a layer takes at least as long as reading its
weights and at least as long as multiplying them. `pipeline.roofline` has it; here its results become proposals.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trtbuild.backends import BACKENDS
from trtbuild.core.advice import Advice, Goal, Proposal, Refused
from trtbuild.core.formats import FORMATS, Format
from trtbuild.core.hardware import Gpu, gpu_named
from trtbuild.core.legality import Illegal, Operator, Target, legality, target
from trtbuild.core.requirements import TORCH_ONLY
from trtbuild.core.sources import OnnxSource
from trtbuild.pipeline.parameters import Parameters, parameters
from trtbuild.pipeline.roofline import Bound, bound, dense_bytes, rows_at_opt, weight_bytes
from trtbuild.recipe.expand import Variant, variants
from trtbuild.recipe.load import load
from trtbuild.recipe.schema import EngineOptions
from trtbuild.recipe.sources import model_source

_ACCURACY: dict[Format, str] = {
    "w8a16": "8-bit weights with a scale a channel and untouched activations rarely show in any metric",
    "fp8_block128": "8-bit weights with a scale a tile and untouched activations rarely show in any metric",
    "mxfp8": "scales in blocks of 32 on both sides follow outliers closely",
    "fp8_pc_pt": "FP8 keeps outliers of activations, and each output channel has its own scale",
    "fp8": "FP8 keeps outliers of activations, with one scale a tensor",
    "int8_sq": "SmoothQuant moves outliers of activations, INT8's weak point, into the weights",
    "int4_awq": "the weights that large activations meet are scaled before they are rounded to 4 bits",
    "int4_gptq": "each rounding error of the 4-bit weights is made up for by the weights after it",
    "int8": "one INT8 scale a tensor for activations: fine for convolutions, risky after GELU and in attention",
    "nvfp4": "4 bits on both sides, with a scale every 16 values",
    "w4a8_awq": "4-bit weights and FP8 activations: two losses at once",
    "int4": "4-bit weights rounded to nearest: the plainest and least accurate of the weight-only formats",
}
"""What each format does to accuracy, the kindest first: the order of `--for accuracy`, and of equals elsewhere."""

_LAUNCH_MS = 0.1
"""Below this, starting kernels takes longer than what they do (a few microseconds each, dozens a model)."""


def advise(recipe: str | Path, goal: Goal, gpu: str, *, sets: Sequence[str] = ()) -> Advice:
    """Propose formats for a recipe's model, best first for the goal. Reads headers only, imports no framework.

    `gpu` is a GPU's name or SM, built for with TensorRT, or `cpu`, built for with ONNX Runtime. Raises RecipeError for
    an unknown one, or a recipe that does not hold together.
    """
    loaded = load(recipe, sets, None)
    machine = None if gpu.lower() == "cpu" else gpu_named(gpu)
    where = _target(machine, loaded.recipe.engine)
    source = model_source(loaded)
    size = parameters(source)
    rows, rows_because = rows_at_opt(loaded.recipe.shapes)
    operators: tuple[Operator, ...] = ("linear", "conv") if size and size.kernels else ("linear",)
    present = variants(loaded.recipe)
    proposals: dict[Format, Proposal] = {}
    refused: list[Refused] = []
    for form in _ACCURACY:
        said = [legality(form, operator, where) for operator in operators]
        first = said[0]
        if isinstance(source, OnnxSource) and form in TORCH_ONLY:
            refused.append(Refused(format=form, reason=f"the model is ONNX: {TORCH_ONLY[form]}", nearest=None))
        elif isinstance(first, Illegal):
            refused.append(Refused(format=form, reason=first.reason, nearest=first.nearest))
        else:
            traps = list(first.warnings)
            traps += [f"convolutions stay in high precision: {one.reason}" for one in said if isinstance(one, Illegal)]
            proposals[form] = _proposal(form, size, rows, machine, traps, present)
    order = _ranked(list(proposals), goal, size, rows, machine)
    return Advice(
        recipe=loaded.recipe.recipe,
        goal=goal,
        target=f"{machine.name}, {where.said}" if machine else where.said,
        model=_said(size),
        parameters=size.total if size else None,
        rows=rows,
        baseline=_baseline(size, rows, rows_because, machine),
        proposals=[proposals[form] for form in order],
        refused=refused,
        notes=_notes(size, rows, machine, where),
    )


def _target(machine: Gpu | None, engine: EngineOptions) -> Target:
    """TensorRT on the GPU, of the version that the recipe names if it builds with TensorRT."""
    if machine is None:
        return target("onnxruntime")
    return target("tensorrt", engine.target if engine.backend != "onnxruntime" else None, machine.sm)


def _proposal(
    form: Format, size: Parameters | None, rows: int, machine: Gpu | None, traps: list[str], present: dict[str, Variant]
) -> Proposal:
    block = _block_size(form, size)
    here = bound(form, size, rows, machine, block or 128) if size and machine else None
    named = next(
        (name for name, variant in present.items() if variant.quantize and variant.quantize.format == form), ""
    )
    name = named or (form if form not in present else f"{form}_advised")
    block_line = f", block_size: {block}" if block not in (None, 128) else ""
    why = [*_gains(form, size, rows, machine, here), _ACCURACY[form]]
    return Proposal(
        format=form,
        variant=name,
        why=why,
        traps=[*traps, *_traps(form, size, machine, block)],
        weight_mb=weight_bytes(form, size, block or 128) / 1e6 if size else None,
        bound_ms=here.ms if here else None,
        bound_by=here.by if here else None,
        recipe_lines="" if named else f"  {name}:\n    quantize: {{format: {form}{block_line}}}\n",
    )


def _gains(form: Format, size: Parameters | None, rows: int, machine: Gpu | None, here: Bound | None) -> list[str]:
    """What is smaller, and what could be faster and why."""
    gains = []
    if size:
        smaller, dense = weight_bytes(form, size), dense_bytes(size)
        gains.append(f"weights of about {smaller / 1e6:.0f} MB instead of {dense / 1e6:.0f} MB in 16 bits")
    if machine is None or size is None or here is None:
        return gains
    dense_bound = bound(None, size, rows, machine)
    times = dense_bound.ms / here.ms
    if times < 1.05:
        return [*gains, f"no faster in the roofline: it stays bound by {here.by}"]
    cause = "fewer bytes of weights to read" if dense_bound.by == "memory" else "products run at the lower type's rate"
    return [*gains, f"linear layers up to {times:.1f} x faster in the roofline: {cause}"]


def _traps(form: Format, size: Parameters | None, machine: Gpu | None, block: int | None) -> list[str]:
    traits, traps = FORMATS[form], []
    rate = machine.peak_tflops(traits.activation) if machine else None
    if machine and traits.activation and rate and rate < machine.fp16_tflops:
        kind = traits.activation.upper()
        traps.append(f"{machine.name} multiplies {kind} slower than FP16: {rate:g} against {machine.fp16_tflops:g}")
    if form in ("int8", "int8_sq") and machine:
        # TensorRT 4554, 4273; Model-Optimizer 167, 80: placement decides
        traps.append("INT8 engines are often no faster than FP16 where Q/DQ stand badly: the speed gate must decide")
    if form == "fp8" and machine:
        # TensorRT 4516; Model-Optimizer 512
        traps.append("FP8 attention falls back to FP16 without a word: look at coverage after the build")
    if traits.granularity == "block" and not traits.block and size and size.widths:
        left = [width for width in size.widths if width % (block or 128)]
        if left:
            traps.append(f"layers of {', '.join(map(str, left))} inputs stay in high precision: no block divides them")
    return traps


def _block_size(form: Format, size: Parameters | None) -> int | None:
    """The block that divides most layers, the larger of equals; None where the format has none to choose."""
    traits = FORMATS[form]
    if traits.granularity != "block" or traits.block:
        return None
    if size is None or not size.widths:
        return 128
    return max((128, 64, 32), key=lambda block: (sum(width % block == 0 for width in size.widths), block))


def _ranked(forms: list[Format], goal: Goal, size: Parameters | None, rows: int, machine: Gpu | None) -> list[Format]:
    """Best first; equals in the order of accuracy."""
    kindness = list(_ACCURACY)
    guess = size or Parameters(0, 10**9, 0, (), 0, exact=False)  # ratios do not depend on the size

    def small(form: Format) -> float:
        return round(weight_bytes(form, guess) / dense_bytes(guess), 1)

    def slow(form: Format) -> float:
        if machine is None:  # ONNX Runtime has integer kernels for CPUs, and emulates FP8 and FP4
            traits = FORMATS[form]
            emulated = {"fp8", "fp4"} & {traits.weight, traits.activation}
            return 2.0 if emulated else float(traits.activation is None)
        return round(bound(form, guess, rows, machine).ms / bound(None, guess, rows, machine).ms, 1)

    keys = {"accuracy": lambda form: 0.0, "memory": small, "latency": slow}
    return sorted(forms, key=lambda form: (keys[goal](form), kindness.index(form)))


def _said(size: Parameters | None) -> str:
    if size is None:
        return "of unknown size: no file of the source holds its weights"
    about = "" if size.exact else "about "
    tables = f", {size.gathered / 1e6:.1f} million of them in embedding tables" if size.gathered else ""
    return f"{about}{size.total / 1e6:.1f} million parameters{tables}, {size.stored_bytes / 1e6:.0f} MB as stored"


def _baseline(size: Parameters | None, rows: int, because: str, machine: Gpu | None) -> str:
    if machine is None:
        return f"{rows} rows a call ({because}); no roofline for CPUs: which kernels a format meets decides"
    guess = size or Parameters(0, 10**9, 0, (), 0, exact=False)
    limit = bound(None, guess, rows, machine)
    ridge = machine.fp16_tflops * 1e3 / machine.bandwidth_gb_s  # rows at which reading 2 bytes costs 2 operations
    side = "few enough that reading the weights" if limit.by == "memory" else "so many that multiplying"
    return (
        f"{rows} rows a call ({because}), {side} limits a 16-bit engine; on {machine.name} the two meet at {ridge:.0f}"
    )


def _notes(size: Parameters | None, rows: int, machine: Gpu | None, where: Target) -> list[str]:
    notes = ["nothing was measured: bounds are from data sheets, orders from reasoning; `trtbuild build` measures"]
    if machine:
        notes.append(f"{machine.name}: {machine.source}")
    if where.backend not in BACKENDS:
        notes.append("this version of trtbuild has no TensorRT backend yet: it builds these with ONNX Runtime")
    if size and machine is None and size.gathered > size.multiplied // 4:
        notes.append(
            "much of the model is embedding tables: `embeddings: int8` below quantize stores a byte an element"
        )
    if size and size.kernels:
        notes.append(f"{size.kernels} of the weights are kernels, used at every position: more rows than counted here")
    if size and machine:
        dense = dense_bytes(size)
        if dense > machine.memory_gb * 1e9 * 0.9:
            notes.append(f"the 16-bit weights ({dense / 1e9:.0f} GB) leave no room in {machine.memory_gb:g} GB")
        if bound(None, size, rows, machine).ms < _LAUNCH_MS:
            notes.append("at this size starting kernels outweighs their work: FP16 may be hard to beat on this GPU")
    return notes
