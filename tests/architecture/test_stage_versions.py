"""Golden stage versions: code that decides results must not change while its version stands still.

`stage_versions.json` holds each stage's version and a hash of its module's and its graph code's syntax tree. After a
change that may alter results, bump `version` in the stage; after any change, run `python -m
tests.architecture.test_stage_versions`.
"""

from __future__ import annotations

import ast
import hashlib
import json
from pathlib import Path

from tests.architecture.test_house import PACKAGE, STAGES

GOLDEN = Path(__file__).with_name("stage_versions.json")
BEHIND = {
    "sample": ["core/python_entry.py", "datasets/*.py"],
    "export": [
        *("backends/pytorch.py", "backends/huggingface*.py"),
        *(NAMED := ["graph/canonical.py", "graph/naming.py"]),
    ],
    "adopt": NAMED,
    "make": ["core/python_entry.py"],
    "export_decoder": [
        *("backends/pytorch.py", "backends/huggingface*.py"),
        *("backends/decoder/backend.py", "backends/decoder/export.py"),
        *NAMED,
        *(CACHED := ["graph/kv_cache/*.py", "core/kv_cache.py"]),
    ],
    "calibrate_cache": ["backends/decoder/*.py", "backends/modelopt/histogram.py", "core/quantization.py"],
    "quantize_cache": CACHED,
    "use_native_cache": CACHED,
    "read": (READ := ["decoding/*.py"]),
    "read_in_fp32": [*READ, "backends/pytorch.py", "backends/decoder/export.py"],
    "validate_decoder": [*READ, "backends/polygraphy.py"],
    "measure_decoder": ["stages/measure.py", "backends/onnxruntime/*.py", "backends/tensorrt/*.py"],
    "autocast": ["backends/autocast.py", "graph/pinning.py", "graph/always_float32.py", "graph/kv_cache/stand_in.py"],
    "bisect": [
        "backends/autocast.py",
        "stages/autocast.py",
        *(f"graph/{name}.py" for name in ("non_finite", "keeping", "pinning", "ranges", "float_types")),
    ],
    "calibrate": [
        *(CALIBRATED := ["backends/modelopt/*.py", "core/quantization.py"]),
        *("backends/checkpoint_codes.py", "checkpoints/quantized/*.py"),
    ],
    "calibrate_onnx": ["backends/modelopt_onnx/*.py", "graph/reading.py", "core/quantization.py"],
    "sensitivity": ["backends/prober.py", "backends/fake_quantization.py"],
    "search": (
        INSERTED := [
            f"graph/{name}.py"
            for name in (
                *("insertion", "selection", "layers", "linear", "convolution", "attention", "operands", "weights"),
                *("quantize", "float_types", "smoothing", "folding", "gelu", "embeddings", "block_scales/*"),
            )
        ]
    )
    + ["core/knapsack.py", "core/candidates.py", "core/agreement.py"]
    + (TRIED := ["stages/trial.py", "stages/mix.py", "stages/floors.py", "stages/scoring.py"]),
    "repair": [*INSERTED, *TRIED, "core/culprits.py", "core/agreement.py"],
    "insert": INSERTED,
    "finetune": [*CALIBRATED, *INSERTED],
    "observe_ranges": ["graph/ranges.py", "graph/attention.py"],
    "build": [
        "backends/onnxruntime/*.py",
        "backends/tensorrt/*.py",
        "plugins/*.py",
        "../plugins/*/plugin.yaml",
        "../plugins/*/ptx/*.ptx",
        "stages/tensorrt_options.py",
        "graph/opset17.py",
        "graph/tensorrt86*.py",
        *(
            f"graph/{name}.py"
            for name in (
                "unsigned",
                "gelu",
                "fp8_in_floats",
                "float_rounding",
                "block_scales/*",
                "gemm_as_matmul",
                "relu_in_codes",
                "float_kernels",
                "conv_in_integers",
            )
        ),
    ],
    "validate": ["backends/polygraphy.py"],
    "measure": ["backends/onnxruntime/*.py", "backends/tensorrt/*.py"],
}
"""What stands behind a stage beside its own module."""


def _hash(files: list[Path]) -> str:
    trees = [
        ast.dump(_without_docstrings(ast.parse(file.read_text()))) if file.suffix == ".py" else file.read_text()
        for file in files
    ]
    return hashlib.sha256("\n".join(trees).encode()).hexdigest()[:16]


def _without_docstrings(tree: ast.AST) -> ast.AST:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [  # type: ignore[attr-defined]  # every node with a list body is a block
                line for line in body if not (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))
            ]
    return tree


def _files(name: str) -> list[Path]:
    folder, name = (PACKAGE.parent, name[3:]) if name.startswith("../") else (PACKAGE, name)
    found = sorted(folder.glob(name))
    assert found, f"{name} is gone: say what stands behind the stage now"
    return found


def current() -> dict[str, dict[str, object]]:
    return {
        stage.name: {
            "version": stage.version,
            "code": _hash(
                [PACKAGE / f"{stage.entry.split(':')[0].removeprefix('trtbuild.').replace('.', '/')}.py"]
                + [file for name in BEHIND.get(stage.name, []) for file in _files(name)]
            ),
        }
        for stage in sorted(STAGES, key=lambda stage: stage.name)
    }


def test_stage_code_and_versions_are_the_recorded_ones() -> None:
    assert current() == json.loads(GOLDEN.read_text()), (
        "stage code changed: bump its version if results may differ, then run "
        "`python -m tests.architecture.test_stage_versions`"
    )


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(current(), indent=1) + "\n")
