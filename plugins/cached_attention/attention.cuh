// A warp's work on one tile: scores, weights, weighted values.
#pragma once

#include "codes.cuh"
#include "tile.cuh"

// ---- queries

// In which order the instruction takes the dimensions is ours to choose, the same for queries and keys: in step s, a lane
// has the four neighbours from first_dim() on, of the 16 bytes of keys that it reads at once.
__device__ __forceinline__ int first_dim(int step, int member) {
    constexpr int per_unit = 16 / kElementBytes, steps = per_unit / 4;
    return (member + 4 * (step / steps)) * per_unit + step % steps * 4;
}

struct Queries {
    uint32_t of[kColumns][kSteps][2];  // pairs of float16
    float factor[kColumns][2];         // of rows 8 c + 2 member and + 1: makes scores logarithms to the base 2
};

// bfloat16 has more range than float16 and fewer digits: with a power of two taken out of each row, all that is lost is
// what is below 2^-29 of the row's greatest element. Returns that power.
__device__ __forceinline__ float narrow(uint32_t (&row)[kSteps][2], const __nv_bfloat16* from, bool exists, int member) {
    float2 pairs[kSteps][2];
    float greatest = 0.0f;
#pragma unroll
    for (int s = 0; s < kSteps; s++) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            pairs[s][i] = exists ? pair_at(from + first_dim(s, member) + 2 * i) : float2{};
            greatest = fmaxf(greatest, fmaxf(fabsf(pairs[s][i].x), fabsf(pairs[s][i].y)));
        }
    }
    greatest = fmaxf(greatest, __shfl_xor_sync(~0u, greatest, 1));
    greatest = fmaxf(greatest, __shfl_xor_sync(~0u, greatest, 2));
    const int exponent = max(int(__float_as_uint(greatest) >> 23), 32);        // as float32 writes it, plus 127
    const float shrink = __uint_as_float(uint32_t(254 + 4 - exponent) << 23);  // the greatest comes to 16 or more
#pragma unroll
    for (int s = 0; s < kSteps; s++)
#pragma unroll
        for (int i = 0; i < 2; i++) row[s][i] = half_pair(pairs[s][i].x * shrink, pairs[s][i].y * shrink);
    return __uint_as_float(uint32_t(exponent - 4) << 23);
}

__device__ __forceinline__ float narrow(uint32_t (&row)[kSteps][2], const __half* from, bool exists, int member) {
#pragma unroll
    for (int s = 0; s < kSteps; s += 2) {  // whose dimensions are neighbours too
        const Words4 eight = exists ? *reinterpret_cast<const Words4*>(from + first_dim(s, member)) : Words4{};
        row[s][0] = eight.of[0], row[s][1] = eight.of[1];
        row[s + 1][0] = eight.of[2], row[s + 1][1] = eight.of[3];
    }
    return 1.0f;
}

// Of the query rows from `first` on, `count` exist. Scores times `scale` are natural logarithms.
__device__ __forceinline__ void load_queries(Queries& q, const INPUT* first, int count, float scale, const Lane& lane) {
#pragma unroll
    for (int c = 0; c < kColumns; c++) {
        const int row = 8 * c + lane.group;
        const float unit = narrow(q.of[c], first + row * kHeadDim, row < count, lane.member);
#pragma unroll
        for (int i = 0; i < 2; i++)
            q.factor[c][i] = scale * 1.4426950408889634f *
                             (kIsHalf ? 1.0f : __shfl_sync(~0u, unit, 4 * (2 * lane.member + i)));
    }
}

// ---- scores

using Scores = float[kHalves][kColumns][4];  // [h][c][2 j + i]: slot 2 group + j of half h, query row 8 c + 2 member + i

__device__ __forceinline__ void score(Scores& scores, const Queries& q, uint32_t stage, const Lane& lane) {
    constexpr int reads = kSteps * kElementBytes / 4, steps = 4 / kElementBytes;
#pragma unroll
    for (int h = 0; h < kHalves; h++) {
        float odd[kColumns][4]{};  // two sums of every score, so that no instruction waits for the one before it
#pragma unroll
        for (int c = 0; c < kColumns; c++)
#pragma unroll
            for (int i = 0; i < 4; i++) scores[h][c][i] = 0.0f;
#pragma unroll
        for (int r = 0; r < reads; r++) {
            const Words4 keys[2] = {read_keys(stage, lane, h, 0, r), read_keys(stage, lane, h, 1, r)};
#pragma unroll
            for (int i = 0; i < steps; i++) {
                uint32_t a[4];
#pragma unroll
                for (int j = 0; j < 2; j++) {
#if CODES == FLOATS
                    a[j] = keys[j].of[2 * i], a[j + 2] = keys[j].of[2 * i + 1];
#else
                    decode(keys[j].of[i], a[j], a[j + 2]);
#endif
                }
                const int step = r * steps + i;
#pragma unroll
                for (int c = 0; c < kColumns; c++) multiply(step % 2 ? odd[c] : scores[h][c], a, q.of[c][step]);
            }
        }
#pragma unroll
        for (int c = 0; c < kColumns; c++)
#pragma unroll
            for (int i = 0; i < 4; i++) scores[h][c][i] += odd[c][i];
    }
}

// ---- weights

// A row's weights are powers of two relative to its reference. When the reference is set, weights are at most
// 2^kHeadroom; they may grow by 2^kPatience until it is set anew, which costs a pass over all outputs. The sum of both
// stays below float16's greatest exponent, and the greater it is, the smaller is what underflows.
constexpr float kHeadroom = 7.0f;
constexpr float kPatience = 8.0f;
constexpr float kNothing = -1e30f;  // the reference of a row that has seen no slot yet

// What a warp knows of its rows so far. Of rows 8 c + 2 member + i: outputs [c][step][i] and [c][step][2 + i], of the
// dimensions output_dim(step) and the next; the reference; this lane's share of the sum of weights.
struct Running {
    float output[kColumns][kSteps][4];
    float reference[kColumns][2];
    float sum[kColumns][2];
};

__device__ __forceinline__ void clear(Running& r) {
#pragma unroll
    for (int c = 0; c < kColumns; c++) {
#pragma unroll
        for (int s = 0; s < kSteps; s++)
#pragma unroll
            for (int i = 0; i < 4; i++) r.output[c][s][i] = 0.0f;
#pragma unroll
        for (int i = 0; i < 2; i++) r.reference[c][i] = kNothing, r.sum[c][i] = 0.0f;
    }
}

struct Scales {
    float2 of_keys[kHalves], of_values[kHalves];  // of slots 2 group and 2 group + 1
};

using Weights = uint32_t[kHalves][kColumns][2];  // as the second operand: pairs of slots x query rows

// Scores to weights.
//
// With a scale per token, a value's scale multiplies its weight, and the product must fit float16. So the reference
// follows the greatest product, not the greatest weight: products are at most 2^15 whatever the scales are, and what is
// lost is below 2^-31 of the greatest. The sum that divides the output in the end is of the weights alone, in float32.
//
// `seen_by` gives what a row sees; it is asked only where a tile is partly seen.
template <typename SeenBy>
__device__ __forceinline__ void weigh(Weights& weights, Running& r, Scores& scores, const Queries& q,
                                      const Scales& scales, bool is_partly_seen, int first_slot, SeenBy seen_by,
                                      const Lane& lane) {
    float2 logarithm[kHalves];
#pragma unroll
    for (int h = 0; h < kHalves; h++)
        if (kPerToken)  // never of 0: the least float16 above it will do
            logarithm[h] = {log2_of(fmaxf(scales.of_values[h].x, 0x1p-24f)), log2_of(fmaxf(scales.of_values[h].y, 0x1p-24f))};
    float top[kColumns][2];
    bool has_grown = false;
#pragma unroll
    for (int c = 0; c < kColumns; c++) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            Seen seen{};
            if (is_partly_seen) seen = seen_by(8 * c + 2 * lane.member + i);
            top[c][i] = -INFINITY;
#pragma unroll
            for (int h = 0; h < kHalves; h++) {
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    float& x = scores[h][c][2 * j + i];
                    x *= kPerToken ? q.factor[c][i] * (j ? scales.of_keys[h].y : scales.of_keys[h].x) : q.factor[c][i];
                    if (is_partly_seen) {
                        const int slot = first_slot + 16 * h + 2 * lane.group + j;
                        if (slot < seen.begin || slot >= seen.end) x = -INFINITY;
                    }
                    top[c][i] = fmaxf(top[c][i], kPerToken ? x + (j ? logarithm[h].y : logarithm[h].x) : x);
                }
            }
            has_grown |= top[c][i] > r.reference[c][i] + (kHeadroom + kPatience);
        }
    }
    if (__any_sync(~0u, has_grown)) {
#pragma unroll
        for (int c = 0; c < kColumns; c++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
#pragma unroll
                for (int distance = 4; distance < 32; distance *= 2)
                    top[c][i] = fmaxf(top[c][i], __shfl_xor_sync(~0u, top[c][i], distance));
                const float reference = fmaxf(r.reference[c][i], top[c][i] - kHeadroom);
                const float shrink = exp2_of(r.reference[c][i] - reference);
                r.reference[c][i] = reference;
                r.sum[c][i] *= shrink;
#pragma unroll
                for (int s = 0; s < kSteps; s++) r.output[c][s][i] *= shrink, r.output[c][s][i + 2] *= shrink;
            }
        }
    }
#pragma unroll
    for (int h = 0; h < kHalves; h++) {
#pragma unroll
        for (int c = 0; c < kColumns; c++) {
            float w[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                w[i] = exp2_of(scores[h][c][i] - r.reference[c][i % 2]);
                r.sum[c][i % 2] += w[i];
                if (kPerToken) w[i] *= i < 2 ? scales.of_values[h].x : scales.of_values[h].y;
            }
            weights[h][c][0] = transposed(half_pair(w[0], w[1]));
            weights[h][c][1] = transposed(half_pair(w[2], w[3]));
        }
    }
}

// ---- weighted values

// Values are the first operand, turned: dimensions x slots. A lane reads the same bytes of four slots and pairs them
// across the slots, which turns them at no price.
constexpr int kValueReads = kTokenBytes / 8 / kValueBytes;  // of a slot
constexpr int kReadDims = kValueBytes / kElementBytes;
constexpr int kReadSteps = kReadDims / 2;                   // outputs[][step] that one read feeds

__device__ __forceinline__ int output_dim(int step, int group) {
    return (step / kReadSteps * 8 + group) * kReadDims + step % kReadSteps * 2;
}

__device__ __forceinline__ void add_values(Running& r, const Weights& weights, uint32_t stage, const Lane& lane) {
#pragma unroll
    for (int h = 0; h < kHalves; h++) {
#pragma unroll
        for (int l = 0; l < kValueReads; l++) {
            uint32_t of[4][kValueBytes / 4];
#pragma unroll
            for (int i = 0; i < 4; i++) read_values(of[i], stage, lane, h, i, l);
#pragma unroll
            for (int w = 0; w < kValueBytes / 4; w++) {
                // To the instruction, slots 0 and 2 of the four are columns 2 member and + 1, slots 1 and 3 those + 8.
                const int step = l * kReadSteps + w * kReadSteps * 4 / kValueBytes;
#if CODES == FLOATS
                const uint32_t a[4] = {__byte_perm(of[0][w], of[2][w], 0x5410), __byte_perm(of[0][w], of[2][w], 0x7632),
                                       __byte_perm(of[1][w], of[3][w], 0x5410), __byte_perm(of[1][w], of[3][w], 0x7632)};
#pragma unroll
                for (int c = 0; c < kColumns; c++) multiply(r.output[c][step], a, weights[h][c]);
#else
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    uint32_t a[4];
                    decode(__byte_perm(of[0][w], of[2][w], i ? 0x7362 : 0x5140), a[0], a[1]);
                    decode(__byte_perm(of[1][w], of[3][w], i ? 0x7362 : 0x5140), a[2], a[3]);
#pragma unroll
                    for (int c = 0; c < kColumns; c++) multiply(r.output[c][step + i], a, weights[h][c]);
                }
#endif
            }
        }
    }
}
