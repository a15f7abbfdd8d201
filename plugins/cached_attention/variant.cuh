// What one compiled variant is: the compiler's macros as constants, and the sizes that follow from them.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

#define FLOATS 0
#define INT8_PER_TOKEN 1
#define INT8_PER_HEAD 2
#define FP8_PER_HEAD 3

constexpr int kWarps = WARPS;        // of a block
constexpr int kStages = STAGES;      // of a warp's ring
constexpr int kSlots = SLOTS;        // of a stage: 16 or 32
constexpr int kHeadDim = HEAD_DIM;   // 64, 128 or 256
constexpr int kRows = ROWS;          // query rows of a block, filled up with zeros: 8 or 16

constexpr int kThreads = 32 * kWarps;
constexpr int kElementBytes = CODES == FLOATS ? 2 : 1;
constexpr bool kPerToken = CODES == INT8_PER_TOKEN;
constexpr bool kIsHalf = __is_same(INPUT, __half);

// The matrix instruction is 16 slots (or dimensions) x 8 query rows, over a depth of 16 dimensions (or slots).
constexpr int kSteps = kHeadDim / 16;
constexpr int kColumns = kRows / 8;
constexpr int kHalves = kSlots / 16;

// What warps share out are tiles: a stage each, but 32 slots at least where slots have scales. Device memory gives 64 bytes
// at once, and pieces of 32 cost an eighth of the speed.
constexpr int kTile = kPerToken ? 32 : kSlots;
constexpr int kStagesOfTile = kTile / kSlots;
