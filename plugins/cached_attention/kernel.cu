// Attention of a decoder's newest tokens over its cache, read in the type that the cache has. README.md has the formulas
// and the speeds; plugin.yaml has the variants that are compiled from this file, and how each is launched.
//
// The work is reading: a token needs all keys and values once, and little arithmetic for each byte. So every choice here
// serves one end: that each multiprocessor always has tens of kilobytes of reads under way, and does little else.
//
// - A block has one head of keys and values, and the query rows that share it (heads of its group times new tokens).
//   Several blocks share the slots of one head; they take tiles of slots in turn, warp by warp.
// - A warp works alone until its tiles are done: it has its own ring of tiles in shared memory, filled by asynchronous
//   copies, and its own running softmax. No barrier of the block stands between two tiles.      (tile.cuh, attention.cuh)
// - Products are tensor core instructions on float16 with sums in float32. Slots are the operand of 16 rows, queries that
//   of 8 columns: few queries waste little. Codes become float16 in registers, exactly.         (codes.cuh, attention.cuh)
// - Warps merge their results in shared memory, blocks through `partials`: the last to arrive at a head's counter adds up.
//   So one launch does it all.                                                                  (merge.cuh)

#include "merge.cuh"

#if CODES == INT8_PER_TOKEN
#define SCALES const __half *__restrict__ key_scale, const __half *__restrict__ value_scale,
using Stored = int8_t;
#elif CODES == INT8_PER_HEAD
#define SCALES const float *__restrict__ key_scale, const float *__restrict__ value_scale,
using Stored = int8_t;
#elif CODES == FP8_PER_HEAD
#define SCALES const float *__restrict__ key_scale, const float *__restrict__ value_scale,
using Stored = uint8_t;
#else
#define SCALES
using Stored = __half;
#endif

// Blocks: (tiles of query rows x splits, heads of keys, rows of the batch). `group` query heads share a head of keys; with
// `tokens` new tokens they make group * tokens query rows, number head * tokens + token. `scale` has the bits of a float.
extern "C" __global__ void __launch_bounds__(kThreads, BLOCKS)
KERNEL(const INPUT* __restrict__ query, const Stored* __restrict__ key_cache, const Stored* __restrict__ value_cache,
       SCALES const int64_t* __restrict__ lengths, int32_t* counters, int slots, int group, int tokens, int window,
       int scale, INPUT* __restrict__ output, float* __restrict__ partials) {
    __shared__ __align__(128) uint8_t shared[kSharedBytes];
    __shared__ Totals totals;
    const Lane lane;
    const int warp = threadIdx.x / 32, head = blockIdx.y, row_and_head = blockIdx.z * gridDim.y + head;

    // Which query rows, and which part of the slots.
    const int all_rows = group * tokens, row_tiles = all_rows <= kRows ? 1 : (all_rows + kRows - 1) / kRows;
    const int splits = row_tiles == 1 ? gridDim.x : gridDim.x / row_tiles;
    const int row_tile = row_tiles == 1 ? 0 : blockIdx.x / splits, split = blockIdx.x - row_tile * splits;
    const int first_row = row_tile * kRows, rows = min(kRows, all_rows - first_row);
    output += (int64_t(row_and_head) * all_rows + first_row) * kHeadDim;

    // Where a launch is small, its time is a chain of waits, and reading begins before the length is known: without a
    // window, a warp's first tile is where it is. Idle rows waste that read, so many rows wait for their lengths.
    const int stride = splits * kWarps, own = split * kWarps + warp;
    const uint32_t ring = shared_address(shared) + warp * kRingBytes;
    const int64_t first_of_head = int64_t(row_and_head) * slots;
    Cache cache{reinterpret_cast<const uint8_t*>(key_cache) + first_of_head * kTokenBytes,
                reinterpret_cast<const uint8_t*>(value_cache) + first_of_head * kTokenBytes, nullptr, nullptr};
#if CODES == INT8_PER_TOKEN
    cache.key_scale = key_scale + first_of_head, cache.value_scale = value_scale + first_of_head;
#endif
    const uint32_t all_scales = ring + kStages * kStageBytes;
    const auto scales_of = [&](int step) { return all_scales + step / kStagesOfTile % 2 * kScaleBytes; };
    const auto copy_keys_of = [&](uint32_t stage, int step, int slot, int end) {
        if (slot < end) copy_keys(stage, cache, slot, lane);
        if (kPerToken && step % kStagesOfTile == 0 && slot < end) copy_scales(scales_of(step), cache, slot, lane);
        end_of_copies();
    };
    const auto copy_values_of = [&](uint32_t stage, int slot, int end) {
        if (slot < end) copy_values(stage, cache, slot, lane);
        end_of_copies();
    };
    int64_t length_;
    asm volatile("ld.global.nc.b64 %0, [%1];" : "=l"(length_) : "l"(lengths + blockIdx.z));
    const bool is_early = gridDim.z <= kEarlyRows && window == INT32_MAX;
    if (is_early) {
        copy_keys_of(ring, 0, own * kTile, slots);
        copy_values_of(ring, own * kTile, slots);
    }

    // A row of token n sees the slots of the newest `window` positions up to its own, length + n.
    const int length = int(min(max(length_, int64_t(-1) << 30), int64_t(1) << 30));
    const auto seen_by = [&](int row) {
        const int last = length + (first_row + row) % tokens;
        return Seen{max(last + 1 - window, 0), min(last + 1, slots)};
    };
    const Seen by_any{max(length + 1 - window, 0), min(length + tokens, slots)};
    const Seen by_all{max(length + tokens - window, 0), min(length + 1, slots)};
    const int first_tile = by_any.begin / kTile;
    const int tiles = by_any.end > by_any.begin ? (by_any.end + kTile - 1) / kTile - first_tile : 0;
    const int working = min(splits, (tiles + kWarps - 1) / kWarps);  // blocks that have a tile at all

    if (split >= working) {
        wait_for_copies<0>();
        if (working == 0 && split == 0)
            for (int i = threadIdx.x; i < rows * kQuads; i += kThreads) put(output + 4 * i, float4{});
        return;
    }

    const auto slot_of = [&](int step) {
        return (first_tile + own + step / kStagesOfTile * stride) * kTile + step % kStagesOfTile * kSlots;
    };
#pragma unroll
    for (int s = 0; s < kStages; s++) {
        if (s == 0 && is_early) continue;
        copy_keys_of(ring + s * kStageBytes, s, slot_of(s), by_any.end);
        copy_values_of(ring + s * kStageBytes, slot_of(s), by_any.end);
    }

    float key_unit = kCodeUnit * __int_as_float(scale), value_unit = kCodeUnit;
#if CODES == INT8_PER_HEAD || CODES == FP8_PER_HEAD
    key_unit *= key_scale[head], value_unit *= value_scale[head];
#endif
    Queries queries;
    load_queries(queries, query + (int64_t(row_and_head) * all_rows + first_row) * kHeadDim, rows, key_unit, lane);

    // Copies end in groups, keys' and values' in turn. When a group is needed, the ring's others may still be under way.
    constexpr int kUnderWay = 2 * kStages - 1;
    Running running;
    clear(running);
    uint32_t stage = ring;
    for (int step = 0, first_slot; (first_slot = slot_of(step)) < by_any.end; step++) {
        const bool is_partly_seen = first_slot < by_all.begin || first_slot + kSlots > by_all.end;

        wait_for_copies<kUnderWay>();
        __syncwarp();
        Scores scores;
        score(scores, queries, stage, lane);
        Scales scales;
#pragma unroll
        for (int h = 0; h < kHalves; h++) {
            if (!kPerToken) continue;
            const int first = step % kStagesOfTile * kSlots + 16 * h;
            scales.of_keys[h] = read_scales(scales_of(step), lane, first, false);
            scales.of_values[h] = read_scales(scales_of(step), lane, first, true);
            const int slot = first_slot + 16 * h + 2 * lane.group;
            if (is_partly_seen && (slot < by_any.begin || slot >= by_any.end)) scales.of_values[h].x = 0.0f;
            if (is_partly_seen && (slot + 1 < by_any.begin || slot + 1 >= by_any.end)) scales.of_values[h].y = 0.0f;
        }
        __syncwarp();
        copy_keys_of(stage, step + kStages, slot_of(step + kStages), by_any.end);

        Weights weights;
        weigh(weights, running, scores, queries, scales, is_partly_seen, first_slot, seen_by, lane);

        wait_for_copies<kUnderWay>();
        __syncwarp();
        if (is_partly_seen) clear_unseen_values(stage, first_slot, by_any, lane);
        add_values(running, weights, stage, lane);
        __syncwarp();
        copy_values_of(stage, slot_of(step + kStages), by_any.end);
        stage = stage + kStageBytes == ring + kStages * kStageBytes ? ring : stage + kStageBytes;
    }

    wait_for_copies<0>();  // an early tile may have been for nothing
    __syncwarp();
    leave(ring, totals.of[warp], running, rows, lane);

    __syncthreads();
    const int64_t rows_of_head = int64_t(row_and_head) * row_tiles + row_tile;
    partials += rows_of_head * splits * (kRows * kRecord);
#pragma unroll
    for (int i = 0; i < kQuadsEach; i++) {
        const int thread = threadIdx.x + i * kThreads, row = thread / kQuads, quad = thread % kQuads;
        if (row >= rows) continue;
        const Part sum = sum_of_warps(shared_address(shared), totals, row, quad);
        if (working == 1) {
            put(output + row * kHeadDim + 4 * quad, sum.quad * normal(sum.total, value_unit));
        } else {
            float* record = partials + (split * kRows + row) * kRecord;
            __stcg(reinterpret_cast<float4*>(record) + quad, sum.quad);
            if (quad == 0) __stcg(reinterpret_cast<float2*>(record + kHeadDim), {sum.total.reference, sum.total.sum});
        }
    }
    if (working > 1 && is_last(reinterpret_cast<uint32_t*>(counters) + rows_of_head, working))
        merge_partials(output, partials, working, rows, value_unit, reinterpret_cast<Part*>(shared));
}
