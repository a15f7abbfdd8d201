"""How new keys and values enter the cache, in standard operators: the bodies of the `KVCacheAppend...` functions.

Shapes: B rows, N new tokens, H key and value heads, S slots (the capacity), D elements of a head. Token t of row b goes
to slot lengths[b] + t, and nowhere where the cache has no such slot. `plugins/kv_cache_append/reference.py` says the
same in NumPy, bit for bit.
"""

from __future__ import annotations

import onnx

# A token whose slot is outside the cache repeats the row's nearest token inside; a row without one writes back what the
# slot holds. So two writes to one slot are always equal, and their order does not matter. `source` counts through the
# new tokens and then through what their slots hold.
_SLOTS = """
  tokens = Shape <start = 2, end = 3> (key)
  capacity = Shape <start = 2, end = 3> (key_cache)
  last_token = Sub (tokens, one)
  last_slot = Sub (capacity, one)
  start = Unsqueeze (lengths, axis_1)
  tokens_0d = Squeeze (tokens, axis_0)
  token = Range (zero, tokens_0d, one)
  first_inside = Neg (start)
  last_inside = Sub (last_slot, start)
  not_after = Min (token, last_inside)
  inside = Max (not_after, first_inside)
  not_after_new = Min (inside, last_token)
  nearest = Max (not_after_new, zero)
  slot = Add (start, nearest)
  from_first = GreaterOrEqual (slot, zero)
  to_last = Less (slot, capacity)
  fits = And (from_first, to_last)
  held_token = Add (token, tokens)
  source = Where (fits, nearest, held_token)
  not_before_first = Max (slot, zero)
  target = Min (not_before_first, last_slot)
  source_3d = Unsqueeze (source, axis_1)
  target_3d = Unsqueeze (target, axis_1)
  source_4d = Unsqueeze (source, axes_1_3)
  target_4d = Unsqueeze (target, axes_1_3)
"""

_ZEROED = """
  of_tokens = Shape <start = 0, end = 3> (key)
  counted = Mul (of_tokens, counters_each)
  counters = ConstantOfShape <value = int32[1] none {0}> (counted)
"""


def as_computed() -> str:
    """Keys and values in the cache's own floating type."""
    return (
        _SLOTS
        + _ZEROED
        + "".join(
            f"""
  {role}_stored = CastLike ({role}, {role}_cache)
  {_write(f"{role}_stored", f"{role}_cache", f"{role}_cache_out", 4)}"""
            for role in ("key", "value")
        )
    )


def int8_per_token() -> str:
    """INT8 with a float16 scale for each token and head, amax / 127 rounded up; NaN counts as zero.

    What exceeds the greatest scale's range saturates, infinities included.
    """
    return (
        _SLOTS
        + _ZEROED
        + _codes_to(127)
        + "".join(
            f"""
  {_without_nan(role)}
  {role}_finite = Clip ({role}_number, lowest_int8, greatest_int8)
  {role}_magnitude = Abs ({role}_finite)
  {role}_amax = ReduceMax <keepdims = 1> ({role}_magnitude, last_axis)
  {role}_exact = Div ({role}_amax, greatest_code)
  {role}_step = Max ({role}_exact, least_scale)
  {_round_up(f"{role}_step")}
  {role}_ratio = Div ({role}_finite, {role}_step_up)
  {_int8_codes(role)}
  {role}_step_3d = Squeeze ({role}_step_up, axis_3)
  {role}_new_scale = CastLike ({role}_step_3d, {role}_scale)
  {_write(f"{role}_codes", f"{role}_cache", f"{role}_cache_out", 4)}
  {_write(f"{role}_new_scale", f"{role}_scale", f"{role}_scale_out", 3)}"""
            for role in ("key", "value")
        )
    )


def int8_per_head() -> str:
    """INT8 with a given scale [H] per head; what exceeds it saturates, NaN counts as zero."""
    return (
        _SLOTS
        + _ZEROED
        + _codes_to(127)
        + "".join(
            f"""
  {_ratio_to_head_scale(role)}
  {_int8_codes(role)}
  {_write(f"{role}_codes", f"{role}_cache", f"{role}_cache_out", 4)}"""
            for role in ("key", "value")
        )
    )


def fp8_per_head() -> str:
    """E4M3 with a given scale [H] per head, as `int8_per_head`.

    Codes are floats on the way, because runtimes scatter no FP8: what the cache held stays what it was, but for the
    sign of a NaN, which only slots that nobody wrote can hold.
    """
    return (
        _SLOTS
        + _ZEROED
        + _codes_to(448)
        + "".join(
            f"""
  {_ratio_to_head_scale(role)}
  {role}_clipped = Clip ({role}_ratio, least_code, greatest_code)
  {role}_cache_f = Cast <to = {onnx.TensorProto.FLOAT}> ({role}_cache)
  {_write(f"{role}_clipped", f"{role}_cache_f", f"{role}_cache_f_out", 4)}
  {role}_cache_out = CastLike ({role}_cache_f_out, {role}_cache)"""
            for role in ("key", "value")
        )
    )


def _write(new: str, cache: str, out: str, rank: int) -> str:
    """Lines that put `new` [B, H, N(, D)] into `cache` [B, H, S(, D)], both of one type."""
    return f"""
  {new}_shape = Shape ({new})
  {new}_source = Expand (source_{rank}d, {new}_shape)
  {new}_target = Expand (target_{rank}d, {new}_shape)
  {new}_held = GatherElements <axis = 2> ({cache}, {new}_target)
  {new}_and_held = Concat <axis = 2> ({new}, {new}_held)
  {new}_update = GatherElements <axis = 2> ({new}_and_held, {new}_source)
  {out} = ScatterElements <axis = 2> ({cache}, {new}_target, {new}_update)
"""


def _without_nan(role: str) -> str:
    """Zero for NaN, and for both zeros the positive one: a Where may or may not keep the sign of what it takes."""
    return f"""
  {role}_f = Cast <to = {onnx.TensorProto.FLOAT}> ({role})
  {role}_is_nan = IsNaN ({role}_f)
  {role}_is_zero = Equal ({role}_f, zero_f)
  {role}_is_nothing = Or ({role}_is_nan, {role}_is_zero)
  {role}_number = Where ({role}_is_nothing, zero_f, {role}_f)
"""


def _round_up(x: str) -> str:
    """`x`_up: the least float16 not less than x, as a float. Above a rounded r comes the one nearest to r and 5/8 to
    5/4 of a step, whose size is 2^-24 where r is subnormal and else lies between r / 2^11 and r / 2^10."""
    return f"""
  {x}_rounded = Cast <to = {onnx.TensorProto.FLOAT16}> ({x})
  {x}_nearest = Cast <to = {onnx.TensorProto.FLOAT}> ({x}_rounded)
  {x}_by_share = Mul ({x}_nearest, next_by_share)
  {x}_by_step = Add ({x}_nearest, next_by_step)
  {x}_beyond = Max ({x}_by_share, {x}_by_step)
  {x}_above = Cast <to = {onnx.TensorProto.FLOAT16}> ({x}_beyond)
  {x}_next = Cast <to = {onnx.TensorProto.FLOAT}> ({x}_above)
  {x}_fell = Less ({x}_nearest, {x})
  {x}_up = Where ({x}_fell, {x}_next, {x}_nearest)
"""


def _ratio_to_head_scale(role: str) -> str:
    return f"""
  {_without_nan(role)}
  {role}_scale_3d = Unsqueeze ({role}_scale, axes_1_2)
  {role}_ratio = Div ({role}_number, {role}_scale_3d)
"""


def _int8_codes(role: str) -> str:
    return f"""
  {role}_whole = Round ({role}_ratio)
  {role}_clipped = Clip ({role}_whole, least_code, greatest_code)
  {role}_codes = CastLike ({role}_clipped, {role}_cache)
"""


def _codes_to(greatest: int) -> str:
    return f"""
  greatest_code = Constant <value_float = {greatest}.0> ()
  least_code = Constant <value_float = -{greatest}.0> ()
"""
