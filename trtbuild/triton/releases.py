"""Which field of config.pbtxt came with which release: an older server cannot read a model that names a newer one.

A newer client parses such a file without a word, and the server then refuses the whole model: measured with
`max_inflight_requests` on Triton 2.51.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from trtbuild.core.errors import RecipeError

FIRST_SEEN = {
    "ModelConfig.response_cache": "21.10",
    "ModelSequenceBatching.State.initial_state": "22.01",
    "ModelWarmup.count": "22.07",
    "ModelEnsembling.Step.model_namespace": "23.03",
    "ModelSequenceBatching.State.use_growable_memory": "23.11",
    "ModelSequenceBatching.State.use_same_buffer_for_input_output": "23.11",
    "ModelConfig.runtime": "24.01",
    "ModelInput.is_non_linear_format_io": "24.08",
    "ModelOutput.is_non_linear_format_io": "24.08",
    "ModelConfig.model_metrics": "24.11",
    "ModelEnsembling.max_inflight_requests": "25.11",
}
"""By message and field, the first container release. [triton-inference-server/common, protobuf/model_config.proto, the
branches r21.10 to r25.11]"""


def check_release(config: Any, release: str) -> None:
    """Raise RecipeError where a ModelConfig sets a field that `release`, a container such as `24.10`, does not know."""
    newer = [(name, FIRST_SEEN[name]) for name in _set_fields(config) if FIRST_SEEN.get(name, "") > release]
    if newer:
        name, first = newer[0]
        raise RecipeError(
            f"{name} came with Triton {first}, and release is {release}",
            hint=f'set release to "{first}" or later, or leave out what needs it',
        )


def _set_fields(message: Any) -> Iterator[str]:
    """Every field that is set, in this message and below, as `Message.field`."""
    for field, value in message.ListFields():
        yield f"{message.DESCRIPTOR.full_name.removeprefix('inference.')}.{field.name}"
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            inside = [each for each in value.values() if hasattr(each, "ListFields")]
        else:
            inside = [value] if hasattr(value, "ListFields") else list(value)
        for each in inside:
            yield from _set_fields(each)
