"""What a person may decide about serving; everything else follows from the engine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from trtbuild.core.values import Options

MODEL_NAME = "^[A-Za-z0-9_.-]+$"
"""What a model may be called: the HTTP API decodes no percent signs, so nothing may need them."""
TESTED_RELEASE = "24.10"
"""The container whose server binary (Triton 2.51) the tests run."""


class QueuePolicy(Options):
    """What becomes of requests that wait."""

    max_queue_size: int = Field(default=0, ge=0)
    """Requests that may wait; more are refused at once. 0 sets no limit."""
    timeout_ms: float = Field(default=0, ge=0)
    """How long a request may wait, in milliseconds; 0 sets no limit."""
    on_timeout: Literal["reject", "delay"] = "reject"
    """`reject` answers it with an error; `delay` serves it after all that are not late."""
    allow_override: bool = False
    """A request may ask for a shorter time-out."""


class Batching(Options):
    """How the server puts requests together."""

    max_queue_delay_ms: float = Field(default=0, ge=0)
    """How long a request may wait for others to share its batch, in milliseconds."""
    preferred_batch_sizes: list[int] | None = None
    """Batches to send without waiting further; None takes the usual batch of each optimization profile, where that is
    neither 1 nor the greatest."""
    preserve_ordering: bool = False
    """Answers leave in the order in which requests came."""
    priority_levels: int = Field(default=0, ge=0)
    """Queues by priority, 1 the first; 0 keeps one queue."""
    default_priority: int = Field(default=0, ge=0)
    """The priority of requests that name none; 0 takes the middle one."""
    queue: QueuePolicy = QueuePolicy()
    """For every queue."""
    queues: dict[int, QueuePolicy] = {}
    """Over `queue`, by priority level."""

    @model_validator(mode="after")
    def _levels(self) -> Batching:
        if self.default_priority > self.priority_levels:
            raise ValueError(f"default_priority {self.default_priority} is beyond priority_levels")
        if wrong := [level for level in self.queues if not 1 <= level <= self.priority_levels]:
            raise ValueError(f"queues names priority {wrong[0]}, priority_levels is {self.priority_levels}")
        if self.preserve_ordering and self.priority_levels > 1:
            raise ValueError("preserve_ordering cannot be kept with several priority levels")
        return self


class Instances(Options):
    """Copies of a model that serve at once."""

    count: int = Field(default=1, ge=1)
    """Execution contexts a device: they share the weights, each has activations of its own."""
    kind: Literal["auto", "gpu", "cpu"] = "auto"
    """Where they run; `auto` takes the GPUs where the backend can."""
    gpus: list[int] = []
    """Which GPUs; none named means each that the server sees."""


class Cuda(Options):
    """TensorRT: how calls are launched."""

    graphs: bool = False
    """Records CUDA graphs for the usual shapes of each optimization profile, and replays them."""
    busy_wait: bool = False
    """Waits for the GPU in a loop: less latency for a CPU core."""
    output_copy_stream: bool = False
    """Copies outputs on a stream of their own."""


class TextOptions(Options):
    """What stands around a text encoder: the ensemble takes strings and gives embeddings."""

    tokenizer: Path
    """The model's `tokenizer.json`."""
    pooling: Literal["mean", "cls", "none"] = "mean"
    """Of the encoder's first output, [batch, tokens, hidden]: the mean over the tokens that are there, the first token,
    or nothing."""
    normalize: bool = True
    """Embeddings have length 1."""
    max_length: int | None = Field(default=None, ge=2)
    """Tokens of a text at most; longer ones are cut. None takes what the engine takes."""
    pad_to_multiple: int = Field(default=16, ge=1)
    """Texts are padded to a multiple of this, so that more of them have one length and share a batch."""


class TritonOptions(Options):
    """How a model is served."""

    name: str | None = Field(default=None, pattern=MODEL_NAME)
    """The model's name; None takes the recipe's."""
    release: str = TESTED_RELEASE
    """The oldest server that must read it, by its container, in quotes: `"24.10"`. What came later is refused."""
    batching: Batching | None = Batching()
    """Dynamic batching; null serves each request alone. An engine without a batch axis never batches."""
    max_batch_size: int | None = Field(default=None, ge=1)
    """Less than the engine's greatest batch; None takes that."""
    instances: Instances = Instances()
    """Copies that serve at once."""
    profiles: list[str] | None = None
    """TensorRT: the optimization profiles to offer, by name; None offers all. Triton itself would offer the first."""
    cuda: Cuda = Cuda()
    """TensorRT: how calls are launched."""
    context_memory: Literal["static", "on_profile_change"] = "static"
    """TensorRT: activations for the greatest profile at once, or for the one in use."""
    warm_up: bool = True
    """Before a version is ready it serves the usual shapes of each profile once."""
    response_cache: bool = False
    """Answers equal requests from the server's cache, which a server flag must switch on."""
    text: TextOptions | None = None
    """Serves strings: the model's name is then an ensemble of tokenizer, encoder and pooling."""
    versions: int = Field(default=1, ge=1)
    """How many of the newest versions serve at once."""
    keep: int = Field(default=3, ge=1)
    """How many versions stay in the repository for a roll-back; older ones are removed."""

    @field_validator("release", mode="before")
    @classmethod
    def _is_container(cls, value: object) -> object:
        if not isinstance(value, str):
            raise ValueError(f'{value!r} is a number: write the container\'s year and month in quotes, "24.10"')
        if not re.fullmatch(r"2\d\.(0[1-9]|1[0-2])", value):
            raise ValueError(f'{value!r} names no container: write year and month, in quotes, such as "24.10"')
        return value

    @model_validator(mode="after")
    def _kept(self) -> TritonOptions:
        if self.keep < self.versions:
            raise ValueError(f"keep is {self.keep}, fewer than the {self.versions} versions that serve")
        return self
