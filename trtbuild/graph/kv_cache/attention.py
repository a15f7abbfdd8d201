"""Attention of new tokens over the cache, in standard operators: the bodies of the `CachedAttention...` functions.

Shapes: B rows, N new tokens, Hq query heads, H key and value heads (each serves Hq / H query heads), S slots, D
elements of a head. The new tokens' keys and values are in the cache already. `plugins/cached_attention/reference.py`
says the same in NumPy with FP64.
"""

from __future__ import annotations

import onnx

# Position p sees slots p - window + 1 to p, as far as they exist.
_SEEN = """
  tokens = Shape <start = 2, end = 3> (query)
  capacity = Shape <start = 2, end = 3> (key_cache)
  tokens_0d = Squeeze (tokens, axis_0)
  capacity_0d = Squeeze (capacity, axis_0)
  token = Range (zero, tokens_0d, one)
  slot = Range (zero, capacity_0d, one)
  start = Unsqueeze (lengths, axis_1)
  position = Add (start, token)
  window = Constant <value_int: int = @window> ()
  before_window = Sub (position, window)
  before_window_3d = Unsqueeze (before_window, axis_2)
  position_3d = Unsqueeze (position, axis_2)
  in_window = Greater (slot, before_window_3d)
  not_future = LessOrEqual (slot, position_3d)
  seen_3d = And (in_window, not_future)
  seen = Unsqueeze (seen_3d, axis_1)
  end = Add (start, tokens)
  held = Less (slot, end)
"""

# A token that sees no slot gets zeros, not the mean of everything, which a softmax of equal scores would be.
_BLIND = """
  last_slot = Sub (capacity, one)
  newest = Min (position, last_slot)
  in_window_from = Add (before_window, one)
  oldest = Max (in_window_from, zero)
  sees_none = Greater (oldest, newest)
  blind = Unsqueeze (sees_none, axes_1_3)
"""

# Slots that nobody wrote may hold NaN, and zero times NaN is NaN.
_HELD_VALUES = """
  held_4d = Unsqueeze (held, axes_1_3)
  values = Where (held_4d, value_f, zero_f)
"""


def over_floats() -> str:
    """The cache holds keys and values themselves."""
    return _attention("scores = Identity (products)", f"scaled_weights = Identity (weights) {_HELD_VALUES}")


def over_scale_per_token() -> str:
    """INT8 codes with scales [B, H, S]. Integers are never NaN, so it is the scales that must not leak."""
    return _attention(
        f"""
  key_scale_f = Cast <to = {onnx.TensorProto.FLOAT}> (key_scale)
  key_scale_row = Unsqueeze (key_scale_f, axis_2)
  scores = Mul (products, key_scale_row)
""",
        f"""
  value_scale_f = Cast <to = {onnx.TensorProto.FLOAT}> (value_scale)
  value_scale_row = Unsqueeze (value_scale_f, axis_2)
  held_row = Unsqueeze (held, axes_1_2)
  held_scale_row = Where (held_row, value_scale_row, zero_f)
  scaled_weights = Mul (weights, held_scale_row)
  values = Identity (value_f)
""",
    )


def over_scale_per_head() -> str:
    """INT8 or E4M3 codes with scales [H]."""
    return _attention(
        """
  key_scale_3d = Unsqueeze (key_scale, axes_1_2)
  scores = Mul (products, key_scale_3d)
""",
        f"""
  value_scale_3d = Unsqueeze (value_scale, axes_1_2)
  scaled_weights = Mul (weights, value_scale_3d)
  {_HELD_VALUES}
""",
    )


def without_cache() -> str:
    """Attention among the new tokens alone: their keys and values stand where the cache's would."""
    return "key_cache = Identity (key) value_cache = Identity (value) lengths = Sub (past, past)" + over_floats()


def _attention(to_scores: str, to_values: str) -> str:
    """softmax(scale Q Kᵀ) V in float32, query heads that share a key head side by side in one product.

    `to_scores` makes `scores` of `products`; `to_values` makes `scaled_weights` of `weights` and `values` of `value_f`.
    K's scale multiplies scores and V's the softmax: one multiplication for a slot, not one for each of its elements.
    """
    return f"""
  {_SEEN} {_BLIND}
  query_f = Cast <to = {onnx.TensorProto.FLOAT}> (query)
  key_f = Cast <to = {onnx.TensorProto.FLOAT}> (key_cache)
  value_f = Cast <to = {onnx.TensorProto.FLOAT}> (value_cache)
  scale = Constant <value_float: float = @scale> ()
  scaled_query = Mul (query_f, scale)
  batch = Shape <start = 0, end = 1> (query)
  query_heads = Shape <start = 1, end = 2> (query)
  heads = Shape <start = 1, end = 2> (key_cache)
  head_dim = Shape <start = 3, end = 4> (query)
  grouped_shape = Concat <axis = 0> (batch, heads, last_axis, head_dim)
  grouped_query = Reshape (scaled_query, grouped_shape)
  key_columns = Transpose <perm = [0, 1, 3, 2]> (key_f)
  products = MatMul (grouped_query, key_columns)
  {to_scores}
  scores_shape = Concat <axis = 0> (batch, query_heads, tokens, capacity)
  scores_by_head = Reshape (scores, scores_shape)
  masked = Where (seen, scores_by_head, lowest_f)
  weights_by_head = Softmax <axis = -1> (masked)
  weights_shape = Concat <axis = 0> (batch, heads, last_axis, capacity)
  weights = Reshape (weights_by_head, weights_shape)
  {to_values}
  mixed = MatMul (scaled_weights, values)
  output_shape = Concat <axis = 0> (batch, query_heads, tokens, head_dim)
  mixed_by_head = Reshape (mixed, output_shape)
  visible = Where (blind, zero_f, mixed_by_head)
  output = CastLike (visible, query)
  partials = ConstantOfShape (axis_1)
"""
