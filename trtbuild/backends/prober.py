"""The error that each module, quantized alone, puts on the model's output: all modules and formats in one pass.

A module's quantization changes its output y by d = f(Q(x), Q(W)) - f(x, W), which is cheap to know. To first order the
model's output changes by J d, J being the output's derivative by y. One backward pass from a random vector v gives
g = J^T v for every y at once, and where v has independent entries of variance 1, (g . d)^2 has the mean |J d|^2
(Hutchinson 1990). Every sample is a draw of its own. For logits v is the gradient of log p(t), t drawn from the model's
own p: then the mean is d^T F d with the Fisher information F, twice the Kullback-Leibler divergence (the score that
FIT, Zandonati et al. 2022, and ModelOpt's auto_quantize approximate by F's diagonal).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from trtbuild.backends import fake_quantization
from trtbuild.core.agreement import snr_db
from trtbuild.core.errors import DataError, ModelError
from trtbuild.core.quantization import ModuleQuantization, Plan
from trtbuild.core.roles import Prober
from trtbuild.core.sensitivity import LocalError, ModuleError, ModuleSensitivity, Sensitivity
from trtbuild.core.tensor_file import Tensors

Measure = Literal["output", "kl"]


class TorchProber(Prober):
    """Scores torch modules: linears, transformers' Conv1D and convolutions."""

    def probe(self, module: Any, plans: Mapping[str, Plan], samples: Iterable[Tensors], options: Any) -> Sensitivity:
        """The sensitivity of every module of `plans`, which are given by candidate name.

        Errors are those of the plan's own numbers: scales that modules reading one tensor come to share when they are
        inserted together are not foreseen. A sample is a row of the first axis; padding counts as any other position.
        `options` has `objective`, `probes` and `seed`. `module` is changed in place: its parameters need no gradient
        any more. Raises ModelError where the model does not take the samples, or its output has no gradient.
        """
        layers, unscored = _layers(module, plans)
        probe = _Probe(layers, plans)
        module.requires_grad_(False)
        random = torch.Generator().manual_seed(options.seed)
        handles = [layer.register_forward_hook(probe.hook(path)) for path, layer in layers.items()]
        rows = 0
        try:
            for sample in samples:
                rows += probe.run(module, sample, options, random)
        finally:
            for handle in handles:
                handle.remove()
        if not rows:
            raise DataError(
                "sensitivity needs calibration samples, and there are none",
                hint="set data.calibration to the number of rows to calibrate on, for example 256",
            )
        return probe.result(rows, unscored, list(plans), options.objective == "kl")


@dataclass
class _Call:
    """One call of a layer in the batch that runs."""

    path: str
    x: torch.Tensor
    version: int


@dataclass
class _Sums:
    """What adds up over batches for one module in one candidate."""

    signal: float = 0.0
    noise: float = 0.0
    product: float = 0.0
    elements: int = 0
    squares: dict[Measure, float] = field(default_factory=lambda: {"output": 0.0, "kl": 0.0})
    """Of g . d, over rows and probes."""


class _Probe:
    def __init__(self, layers: dict[str, Any], plans: Mapping[str, Plan]) -> None:
        self._layers = layers
        self._candidates = {
            path: {name: plan.modules[path] for name, plan in plans.items() if path in plan.modules} for path in layers
        }
        self._sums: dict[tuple[str, str], _Sums] = defaultdict(_Sums)
        self._calls: list[_Call] = []
        self._copied: set[str] = set()
        """Layers whose input is written over after they ran: theirs must be copied."""
        self._without_gradient: set[str] = set()
        self._rows = 1
        self._inner: dict[tuple[str, str], torch.Tensor] = {}
        """g . d of the backward pass under way, [rows]: summed over the calls of a module before it is squared."""
        self._first_pass = True

    def hook(self, path: str) -> Any:
        """A forward hook that remembers the input, and scores the module when the gradient of its output arrives."""

        def ran(_: Any, inputs: tuple[Any, ...], output: Any) -> Any:
            x = inputs[0].detach()
            x = x.clone() if path in self._copied else x
            call = _Call(path, x, x._version)
            self._calls.append(call)
            if not torch.is_grad_enabled():
                self._without_gradient.add(path)
                return None
            if not output.requires_grad:
                # Where gradients begin. The clone may be written in place, which a leaf may not.
                output = output.detach().requires_grad_().clone()
            output.register_hook(lambda gradient: self._arrived(call, gradient))
            return output

        return ran

    def run(self, module: Any, sample: Tensors, options: Any, random: torch.Generator) -> int:
        """One batch: forward, then backward once for each probe; returns its rows."""
        while True:
            outputs, rows = self._forward(module, sample)
            changed = {call.path for call in self._calls if call.x._version != call.version}
            if not changed:
                break
            self._copied |= changed
        self._rows = rows if all(output.shape[:1] == (rows,) for output in outputs) else 1
        passes: list[Measure] = ["output" for _ in range(options.probes)]
        if options.objective == "kl":
            passes.append("kl")
        for number, measure in enumerate(passes):
            self._first_pass, self._inner = number == 0, {}
            target = _log_likelihood(outputs[0], self._rows, random) if measure == "kl" else None
            if target is None:
                target = _random_projection(outputs, self._rows, random)
            try:
                target.backward(retain_graph=number < len(passes) - 1)
            except RuntimeError as error:
                raise ModelError(
                    f"{type(module).__name__} cannot be differentiated: {str(error).splitlines()[0]}",
                    hint="write what its forward changes in place as new tensors",
                ) from error
            # A batch that is one sample stands for its rows: the sum over rows of their own squares.
            weight = rows / self._rows / (options.probes if measure == "output" else 1)
            for key, inner in self._inner.items():
                self._sums[key].squares[measure] += weight * float(inner.square().sum())
            if number == 0:
                for call in self._calls:
                    self._score(call, None)  # no output depends on these
                self._calls = []
        return rows

    def _forward(self, module: Any, sample: Tensors) -> tuple[list[torch.Tensor], int]:
        self._calls = []
        try:
            with torch.enable_grad():
                found = module(**{name: torch.from_numpy(array) for name, array in sample.items()})
        except TypeError as error:
            raise ModelError(
                f"{type(module).__name__}.forward does not take the samples: {error}",
                hint=f"samples are passed by name: {', '.join(sample)}",
            ) from error
        tensors = list(found.values()) if isinstance(found, Mapping) else found
        tensors = [tensors] if isinstance(tensors, torch.Tensor) else list(tensors)
        outputs = [tensor for tensor in tensors if torch.is_tensor(tensor) and tensor.requires_grad]
        if not outputs:
            raise ModelError(
                f"no output of {type(module).__name__} has a gradient, so nothing says how errors reach it",
                hint="its forward must not run under torch.no_grad or torch.inference_mode, nor detach its tensors",
            )
        first = next(iter(sample.values()))
        return outputs, int(first.shape[0]) if first.ndim else 1

    def _arrived(self, call: _Call, gradient: torch.Tensor) -> None:
        self._score(call, gradient)
        if self._first_pass:
            self._calls = [other for other in self._calls if other is not call]

    def _score(self, call: _Call, gradient: torch.Tensor | None) -> None:
        """Quantize one call of one module in each candidate, one at a time, and add up what it does."""
        with torch.no_grad():
            self._add(call, gradient)

    def _add(self, call: _Call, gradient: torch.Tensor | None) -> None:
        layer = self._layers[call.path]
        plain = fake_quantization.output(layer, call.x)
        signal = float(torch.linalg.vecdot(plain.flatten(), plain.flatten()))
        for name, numbers in self._candidates[call.path].items():
            key = (call.path, name)
            delta = fake_quantization.output(layer, call.x, numbers).sub_(plain)
            if self._first_pass:
                sums = self._sums[key]
                sums.signal += signal
                sums.noise += float(torch.linalg.vecdot(delta.flatten(), delta.flatten()))
                sums.product += float(torch.linalg.vecdot(plain.flatten(), delta.flatten()))
                sums.elements += plain.numel()
            if gradient is not None:
                inner = _by_row(delta, gradient, self._rows)
                self._inner[key] = self._inner[key] + inner if key in self._inner else inner

    def result(self, rows: int, unscored: dict[str, str], candidates: list[str], kl: bool) -> Sensitivity:
        """What the sums say."""
        modules = {}
        for path, layer in self._layers.items():
            found = {name: self._sums[path, name] for name in self._candidates[path] if (path, name) in self._sums}
            if path in self._without_gradient:
                unscored[path] = "it runs under torch.no_grad, so nothing says how its errors reach the output"
                continue
            if not found:
                unscored[path] = "no sample reached it"
                continue
            if not all(
                math.isfinite(number) for sums in found.values() for number in (sums.signal, *sums.squares.values())
            ):
                unscored[path] = "its output or its gradient holds NaN or infinity"
                continue
            modules[path] = ModuleSensitivity(
                weights=layer.weight.numel(),
                errors={
                    name: ModuleError(
                        format=self._candidates[path][name].format,
                        output_error=(sums.squares["output"] / rows) ** 0.5,
                        kl=sums.squares["kl"] / rows / 2 if kl else None,
                        local=_local(sums),
                    )
                    for name, sums in found.items()
                },
            )
        return Sensitivity(candidates=candidates, modules=modules, unscored=unscored, samples=rows)


def _layers(module: Any, plans: Mapping[str, Plan]) -> tuple[dict[str, Any], dict[str, str]]:
    """The layers to score, in the model's order, and the modules of plans that nothing here can run."""
    wanted: dict[str, list[ModuleQuantization]] = defaultdict(list)
    for plan in plans.values():
        for path, numbers in plan.modules.items():
            wanted[path].append(numbers)
    known = dict(module.named_modules())
    layers = {path: layer for path, layer in known.items() if path in wanted and fake_quantization.is_known(layer)}
    unscored = {
        path: f"{type(known[path]).__name__} is not a linear or a convolution" if path in known else "no such module"
        for path in wanted
        if path not in layers
    }
    return layers, unscored


def _by_row(delta: torch.Tensor, gradient: torch.Tensor, rows: int) -> torch.Tensor:
    """g . d for each row, [rows]. Where the first axis does not hold the rows (experts see a part of the tokens) all of
    it counts in one number: rows have independent probes, so its square has the same mean as the sum of theirs."""
    if delta.ndim and delta.shape[0] % rows == 0:
        return torch.linalg.vecdot(delta.reshape(rows, -1), gradient.reshape(rows, -1)).double()
    inner = torch.zeros(rows, dtype=torch.float64)
    inner[0] = torch.linalg.vecdot(delta.flatten(), gradient.flatten())
    return inner


def _random_projection(outputs: list[torch.Tensor], rows: int, random: torch.Generator) -> torch.Tensor:
    """v . out with random signs v, each row of each output relative to its own norm."""
    target = torch.zeros(())
    for output in outputs:
        flat = output.float().reshape(rows, -1)
        signs = torch.randint(0, 2, flat.shape, generator=random) * 2.0 - 1.0
        norm = flat.detach().norm(dim=1, keepdim=True).clamp(min=1e-30)
        target = target + (flat * signs / norm).sum()
    return target / len(outputs) ** 0.5


def _log_likelihood(logits: torch.Tensor, rows: int, random: torch.Generator) -> torch.Tensor:
    """Log-likelihood of classes drawn from the model itself, over the root of each row's positions."""
    flat = logits.float().reshape(-1, logits.shape[-1])
    likely = flat.log_softmax(-1)
    drawn = torch.multinomial(likely.detach().exp(), 1, generator=random)
    return likely.gather(1, drawn).sum() / (len(flat) / rows) ** 0.5


def _local(sums: _Sums) -> LocalError:
    """Signal S = |y|^2, noise N = |d|^2 and S_d = y . d give |y + d|^2 = S + 2 S_d + N."""
    quantized = max(sums.signal + 2 * sums.product + sums.noise, 0.0)
    lengths = (sums.signal * quantized) ** 0.5
    return LocalError(
        snr_db=snr_db(sums.signal, sums.noise),
        mse=sums.noise / max(sums.elements, 1),
        cosine=min(1.0, (sums.signal + sums.product) / lengths) if lengths else float(sums.noise == 0),
        relative_error=(sums.noise / sums.signal) ** 0.5 if sums.signal else float(sums.noise > 0),
    )
