"""config.pbtxt from an engine's interface: what follows, what is refused, and the mistakes that nobody else finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tritonclient.grpc import model_config_pb2 as pb

from trtbuild.core.errors import ModelError, RecipeError
from trtbuild.core.interface import Interface, IoTensor, ProfileRange
from trtbuild.pipeline.triton import check_triton, read_options
from trtbuild.triton.config import as_text, model_config, parsed
from trtbuild.triton.options import Batching, Cuda, Instances, QueuePolicy, TritonOptions
from trtbuild.triton.releases import check_release
from trtbuild.triton.rules import problems


def ranges(least: int, usual: int, most: int) -> dict[str, tuple[list[int], list[int], list[int]]]:
    shape = ([least, 8], [usual, 64], [most, 128])
    return {"ids": shape, "mask": shape}


ENCODER = Interface(
    inputs={"ids": IoTensor(dtype="int64", dims=[-1, -1]), "mask": IoTensor(dtype="int64", dims=[-1, -1])},
    outputs={"hidden": IoTensor(dtype="float16", dims=[-1, -1, 32])},
    profiles=[ProfileRange(name="small", ranges=ranges(1, 1, 4)), ProfileRange(name="large", ranges=ranges(1, 16, 32))],
)


def config(options: TritonOptions | None = None, interface: Interface = ENCODER, backend: str = "tensorrt") -> Any:
    return model_config(
        interface, options or TritonOptions(), name="m", backend=backend, model_file="model.plan", tags={"engine": "d"}
    )


def test_everything_follows_from_the_engine() -> None:
    made = config(TritonOptions(cuda=Cuda(graphs=True)))
    assert made.max_batch_size == 32
    assert [list(tensor.dims) for tensor in (*made.input, *made.output)] == [[-1], [-1], [-1, 32]]
    assert [*made.dynamic_batching.preferred_batch_size] == [16]
    assert [*made.instance_group[0].profile] == ["0", "1"]
    assert [spec.batch_size for spec in made.optimization.cuda.graph_spec] == [1, 16]
    assert [spec.batch_size for spec in made.model_warmup] == [1, 16]
    assert problems(made, folder="m") == []
    assert parsed(as_text(made), "config.pbtxt") == made


def test_an_engine_without_a_shared_batch_axis_is_served_as_it_is() -> None:
    fixed = ENCODER.model_copy(update={"outputs": {"pooled": IoTensor(dtype="float32", dims=[32])}})
    made = config(interface=fixed)
    assert made.max_batch_size == 0
    assert not made.HasField("dynamic_batching")
    assert [*made.input[0].dims] == [-1, -1]
    assert problems(made, folder="m") == []
    with pytest.raises(RecipeError, match="has no batch axis"):
        config(TritonOptions(max_batch_size=4), fixed)


def test_queues_priorities_and_instances_are_written() -> None:
    batching = Batching(
        max_queue_delay_ms=0.5,
        priority_levels=3,
        queue=QueuePolicy(max_queue_size=9, timeout_ms=20, on_timeout="delay"),
        queues={1: QueuePolicy(timeout_ms=1)},
    )
    made = config(
        TritonOptions(batching=batching, instances=Instances(count=2, kind="gpu", gpus=[1]), profiles=["large"])
    )
    dynamic = made.dynamic_batching
    assert (dynamic.max_queue_delay_microseconds, dynamic.default_priority_level) == (500, 2)
    assert dynamic.default_queue_policy.timeout_action == pb.ModelQueuePolicy.DELAY
    assert dynamic.priority_queue_policy[1].default_timeout_microseconds == 1000
    assert (made.instance_group[0].count, [*made.instance_group[0].gpus]) == (2, [1])
    assert [*made.instance_group[0].profile] == ["1"]
    assert problems(made, folder="m") == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (TritonOptions(max_batch_size=64), "the engine takes at most 32"),
        (TritonOptions(profiles=["huge"]), "no profile 'huge'"),
        (TritonOptions(batching=Batching(preferred_batch_sizes=[64])), "max_batch_size is 32"),
    ],
)
def test_options_that_contradict_the_engine_are_refused(options: TritonOptions, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        config(options)


def test_types_that_triton_cannot_carry_are_refused() -> None:
    fp8 = ENCODER.model_copy(update={"outputs": {"hidden": IoTensor(dtype="float8_e4m3fn", dims=[-1, 4])}})
    with pytest.raises(ModelError, match="hidden is float8_e4m3fn"):
        config(interface=fp8)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["release='2.51'"], "names no container"),
        (["release=24.10"], "is a number: write"),
        (["keep=1", "versions=2"], "fewer than the 2 versions"),
        (["batching.priority_levels=2", "batching.preserve_ordering=true"], "preserve_ordering"),
        (["nmae=x"], "Extra inputs are not permitted"),
        (["name=a b"], "should match pattern"),
        (["instances"], "write path=value"),
    ],
)
def test_wrong_options_are_explained(words: list[str], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        read_options(None, words)


def test_options_come_from_a_file_and_from_words(tmp_path: Path) -> None:
    file = tmp_path / "serving.yaml"
    file.write_text("instances: {count: 2}\nrelease: '25.01'\n")
    options = read_options(file, ["instances.count=3", "cuda.graphs=true"])
    assert (options.instances.count, options.cuda.graphs, options.release) == (3, True, "25.01")
    with pytest.raises(ValidationError):
        TritonOptions(release="25.13")


def test_fields_newer_than_the_release_are_refused() -> None:
    made = pb.ModelConfig(name="m", runtime="libtriton_x.so")
    made.ensemble_scheduling.max_inflight_requests = 4
    with pytest.raises(RecipeError, match=r"max_inflight_requests came with Triton 25\.11"):
        check_release(made, "24.10")
    check_release(made, "25.11")
    with pytest.raises(RecipeError, match=r"runtime came with Triton 24\.01"):
        check_release(pb.ModelConfig(runtime="x"), "23.12")


WRONG = {
    "another name": ('name: "n"', "its folder is 'm'"),
    "no backend": ('backend: ""', "names no backend"),
    "contradiction": ('platform: "onnxruntime_onnx"', "contradict"),
    "preferred too large": ("dynamic_batching {preferred_batch_size: 33}", "preferred_batch_size 33"),
    "priority out of range": ("dynamic_batching {priority_levels: 2}", "default_priority_level is 0"),
    "queue of no level": (
        "dynamic_batching {priority_levels: 1 default_priority_level: 1 priority_queue_policy {key: 3 value {}}}",
        "names level 3",
    ),
    "ordering": (
        "dynamic_batching {priority_levels: 2 default_priority_level: 1 preserve_ordering: true}",
        "preserve_ordering",
    ),
    "duplicate input": ('input {name: "ids" data_type: TYPE_INT64 dims: -1}', "input ids is there 2 times"),
    "no type": ('input {name: "z" dims: 1}', "input z has no data_type"),
    "no dims": ('input {name: "z" data_type: TYPE_FP32}', "input z has no dims"),
    "dim 0": ('input {name: "z" data_type: TYPE_FP32 dims: 0}', "dimension of 0"),
    "dim -2": ('input {name: "z" data_type: TYPE_FP32 dims: -2}', "dimension of -2"),
    "reshape": ('input {name: "z" data_type: TYPE_FP32 dims: 6 reshape {shape: 5}}', "of another size"),
    "image format": ('input {name: "z" data_type: TYPE_FP32 dims: 6 format: FORMAT_NCHW}', "needs three"),
    "input and output": ('input {name: "hidden" data_type: TYPE_FP32 dims: 6}', "an input and an output"),
    "graph of no input": (
        'optimization {cuda {graphs: true graph_spec {batch_size: 1 input {key: "q" value {dim: 1}}}}}',
        "graph_spec names q",
    ),
    "warm-up of no input": (
        'model_warmup {name: "w" batch_size: 1 inputs {key: "q" value {data_type: TYPE_FP32 dims: 1 zero_data: true}}}',
        "warm-up w names q",
    ),
    "warm-up too large": ('model_warmup {name: "w" batch_size: 99}', "batch_size 99"),
    "batch input": (
        'batch_input {kind: BATCH_ELEMENT_COUNT target_name: "t" data_type: TYPE_FP32 source_input: "q"}',
        "reads q, which is no input",
    ),
    "missing version": ("version_policy {specific {versions: 7}}", "asks for version 7"),
    "missing labels": (
        'output {name: "o" data_type: TYPE_FP32 dims: 1 label_filename: "labels.txt"}',
        "labels in labels.txt",
    ),
    "cache of a decoupled model": (
        "response_cache {enable: true} model_transaction_policy {decoupled: true}",
        "decoupled",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_each_mistake_is_named(case: str, tmp_path: Path) -> None:
    change, says = WRONG[case]
    right = config(TritonOptions(batching=None, warm_up=False))
    right.version_policy.Clear()
    folder = tmp_path / "m"
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(as_text(right))
    assert check_triton(folder) == []
    wrong = parsed(change, "change")
    merged = pb.ModelConfig.FromString(right.SerializeToString())
    merged.MergeFrom(wrong)
    if case == "no backend":
        merged.backend = ""
    (folder / "config.pbtxt").write_text(as_text(merged))
    found = check_triton(folder)
    assert any(says in sentence for sentence in found), found


def test_batching_without_a_batch_axis_and_a_cache_without_a_server_cache() -> None:
    made = pb.ModelConfig(name="m", backend="tensorrt")
    made.dynamic_batching.SetInParent()
    made.response_cache.enable = True
    found = problems(made, folder="m", cached=False)
    assert any("never batches" in sentence for sentence in found)
    assert any("caches nothing" in sentence for sentence in found)


def test_text_that_is_no_configuration_names_its_line(tmp_path: Path) -> None:
    file = tmp_path / "config.pbtxt"
    file.write_text('name: "m"\nmax_batch: 3\n')
    with pytest.raises(RecipeError, match=r"config\.pbtxt:2:1 .*max_batch"):
        check_triton(file)
    with pytest.raises(RecipeError, match="cannot be read"):
        check_triton(tmp_path / "nothing")
