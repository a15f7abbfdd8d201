// Attention of a decoder's newest tokens over its cache, read in the type that the cache has. README.md has the formulas
// and the speeds; plugin.yaml has the variants that are compiled from this file, and how each is launched.
//
// The work is reading: one token needs all keys and values once, and little arithmetic. So every choice here serves one
// end: that each multiprocessor always has tens of kilobytes of reads under way, and does little else.
//
// - A block has one head of keys and values and the query rows that share it (grouped heads times new tokens), up to
//   ROWS. Several blocks share the slots of one head; block by block and warp by warp they take tiles of slots in turn,
//   so that the whole launch walks through memory together (a few percent faster than a range for each).
// - Every warp works alone until its tiles are done: it has its own ring of tiles in shared memory, filled by
//   asynchronous copies, and its own running softmax. No barrier of the block stands between two tiles.
// - Products are m16n8k16 tensor core instructions on float16 with sums in float32. Keys and values are the operand of
//   16 rows, queries that of 8 columns: few queries waste little. Codes become float16 in registers, exactly.
// - Warps merge their results in shared memory, blocks theirs through `partials`: the last block to arrive at a head's
//   counter adds up, always in the same order, so that two runs give the same bits.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

// ---- what this variant is

#define FLOATS 0
#define INT8_PER_TOKEN 1
#define INT8_PER_HEAD 2
#define FP8_PER_HEAD 3

constexpr int kWarps = WARPS;             // of a block
constexpr int kThreads = 32 * kWarps;
constexpr int kStages = STAGES;           // tiles in a warp's ring
constexpr int kTile = TILE;               // slots of a tile: 16 or 32
constexpr int kHeadDim = HEAD_DIM;        // 64, 128 or 256
constexpr int kRows = ROWS;               // query rows of a block, filled up with zeros: 8 or 16
constexpr int kElementBytes = CODES == FLOATS ? 2 : 1;
constexpr bool kPerToken = CODES == INT8_PER_TOKEN;
constexpr bool kIsHalf = __is_same(INPUT, __half);

constexpr int kTokenBytes = kHeadDim * kElementBytes;
constexpr int kTileBytes = kTile * kTokenBytes;           // of keys, or of values
constexpr int kScaleBytes = kPerToken ? 2 * kTile : 0;    // of keys' scales, or of values'
constexpr int kStageBytes = 2 * (kTileBytes + kScaleBytes);
constexpr int kRingBytes = kWarps * kStages * kStageBytes;

constexpr int kSteps = kHeadDim / 16;     // mma's depth is 16: steps of one score; groups of 16 dimensions of one output
constexpr int kColumns = kRows / 8;       // mma's width is 8
constexpr int kHalves = kTile / 16;       // mma's height is 16

constexpr int kCluster = CLUSTER;         // blocks that merge through each other's shared memory (9.0 and later), or 1
constexpr int kSliceDim = kHeadDim / kCluster;            // dimensions that each block of a cluster merges
constexpr int kPartialFloats = kRows * (kSliceDim + 2);   // of a slice: outputs, then the reference and sum of each row

// The weights of a row are powers of two relative to a reference, in float16. What a weight can be at most when the
// reference is set, and how far it may grow until the reference is set anew. Together 2^15: the sum must stay below
// float16's greatest number, and the higher the weights, the smaller is what underflows.
constexpr float kHeadroom = 7.0f;
constexpr float kPatience = 8.0f;
constexpr float kNothing = -1e30f;        // reference of a row that has seen no slot yet

// ---- instructions

struct alignas(16) Words4 { uint32_t of[4]; };
struct alignas(8) Words2 { uint32_t of[2]; };

__device__ __forceinline__ uint32_t shared_address(const void* p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// 16 bytes from device memory to shared memory, past the L1 cache.
__device__ __forceinline__ void copy_16_bytes(uint32_t to, const void* from) {
    asm volatile("cp.async.cg.shared.global" L2_HINT " [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}

#ifdef SCALE_HINT
__device__ __forceinline__ void copy_scales(uint32_t to, const void* from) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
#define COPY_SCALES copy_scales
#else
#define COPY_SCALES copy_16_bytes
#endif

__device__ __forceinline__ void end_of_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int kYounger>
__device__ __forceinline__ void wait_for_all_but() {
    asm volatile("cp.async.wait_group %0;" ::"n"(kYounger) : "memory");
}

// sums[16 x 8] += a[16 x 16] * b[16 x 8]
__device__ __forceinline__ void multiply(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ uint32_t transposed(uint32_t x) {  // of a warp's 8 x 8 matrix of float16
    uint32_t y;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
    return y;
}

__device__ __forceinline__ float exp2_of(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ float log2_of(float x) {
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ uint32_t half_pair(float low, float high) {
    uint32_t pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

__device__ __forceinline__ float2 float_pair(uint32_t halves) {
    return __half22float2(*reinterpret_cast<const __half2*>(&halves));
}

__device__ __forceinline__ uint32_t bytes_of(uint32_t a, uint32_t b, uint32_t selected) {
    return __byte_perm(a, b, selected);
}

// ---- codes to float16, exactly

// Four codes to two pairs of float16, in order.
__device__ __forceinline__ void decode(uint32_t codes, uint32_t& pair01, uint32_t& pair23) {
#if CODES == FP8_PER_HEAD
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
    asm("{.reg .b16 low, high; mov.b32 {low, high}, %2; cvt.rn.f16x2.e4m3x2 %0, low; cvt.rn.f16x2.e4m3x2 %1, high;}"
        : "=r"(pair01), "=r"(pair23) : "r"(codes));
#else
    // E4M3's exponent and mantissa, moved to where float16 has them, are the number over 2^8 (kCodeUnit).
    const uint32_t even = bytes_of(codes, 0, 0x1404), odd = bytes_of(codes, 0, 0x3424);
    pair01 = (even & 0x80008000) | ((even & 0x7f007f00) >> 1);
    pair23 = (odd & 0x80008000) | ((odd & 0x7f007f00) >> 1);
#endif
#else
    // With its sign bit flipped a code is a byte u = code + 128; with the byte 0x64 above it, it is the float16 1024 + u.
    const uint32_t flipped = codes ^ 0x80808080, minus_1152 = 0xe480e480;
    const uint32_t low = bytes_of(flipped, 0x64646464, 0x4140), high = bytes_of(flipped, 0x64646464, 0x4342);
    asm("add.f16x2 %0, %1, %2;" : "=r"(pair01) : "r"(low), "r"(minus_1152));
    asm("add.f16x2 %0, %1, %2;" : "=r"(pair23) : "r"(high), "r"(minus_1152));
#endif
}

#if CODES == FP8_PER_HEAD && defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 890
constexpr float kCodeUnit = 256.0f;
#else
constexpr float kCodeUnit = 1.0f;
#endif

// ---- a lane's place

// In mma's fragments a lane has `group` (0 to 7) and `member` (0 to 3). A warp's scores are slots x rows: the lane's are
// of slots 2 group and 2 group + 1, which mma calls rows group and group + 8, and of query rows 2 member and
// 2 member + 1. So the two slots' scales are one word, and the four slots whose values the lane multiplies, 4 member to
// 4 member + 3, are neighbours.
struct Lane {
    int index, group, member;
    __device__ Lane() : index(threadIdx.x & 31), group(index >> 2), member(index & 3) {}
};

// ---- tiles: from device memory to shared memory

// Tiles are copied in units of 16 bytes. In shared memory the units of a tile are permuted such that 8 lanes that read
// at once hit 8 different units modulo 8, that is, all banks: keys are read from slots 2 apart, values from slots 4 apart.
constexpr int kUnits = kTokenBytes / 16;  // of a slot

__device__ __forceinline__ int key_unit(int slot, int unit) { return (slot * kUnits + unit) ^ ((slot >> 1 & 1) << 2); }
__device__ __forceinline__ int value_unit(int slot, int unit) { return (slot * kUnits + unit) ^ ((slot >> 2 & 3) << 1); }

struct Cache {
    const uint8_t* keys;  // of this row and head
    const uint8_t* values;
    const __half* key_scale;
    const __half* value_scale;
};

struct Stage {
    uint8_t* keys;
    __device__ explicit Stage(uint8_t* start) : keys(start) {}
    __device__ uint8_t* values() const { return keys + kTileBytes; }
    __device__ __half* key_scale() const { return reinterpret_cast<__half*>(keys + 2 * kTileBytes); }
    __device__ __half* value_scale() const { return key_scale() + kTile; }
};

constexpr int kCopies = kTileBytes / 16 / 32;  // of each lane

__device__ __forceinline__ void copy_keys(const Stage& stage, const Cache& cache, int first_slot, const Lane& lane) {
    const uint8_t* from = cache.keys + size_t(first_slot) * kTokenBytes + lane.index * 16;
    const uint32_t to = shared_address(stage.keys);
#pragma unroll
    for (int i = 0; i < kCopies; i++) {
        const int linear = lane.index + 32 * i;
        copy_16_bytes(to + 16 * key_unit(linear / kUnits, linear % kUnits), from + 512 * i);
    }
    if (kPerToken && lane.index < kTile / 4) {  // 8 scales a lane, the keys' and then the values'
        const int part = lane.index % (kTile / 8) * 8;
        const bool of_values = lane.index >= kTile / 8;
        COPY_SCALES(shared_address(of_values ? stage.value_scale() : stage.key_scale()) + 2 * part,
                      (of_values ? cache.value_scale : cache.key_scale) + first_slot + part);
    }
}

__device__ __forceinline__ void copy_values(const Stage& stage, const Cache& cache, int first_slot, const Lane& lane) {
    const uint8_t* from = cache.values + size_t(first_slot) * kTokenBytes + lane.index * 16;
    const uint32_t to = shared_address(stage.values());
#pragma unroll
    for (int i = 0; i < kCopies; i++) {
        const int linear = lane.index + 32 * i;
        copy_16_bytes(to + 16 * value_unit(linear / kUnits, linear % kUnits), from + 512 * i);
    }
}

// ---- queries

// mma's order of dimensions is ours to choose, the same for queries and keys: in step s, a lane takes the four
// neighbours from `first_dim` on of the 16 bytes of keys that it loads at once.
__device__ __forceinline__ int first_dim(int step, int member) {
    constexpr int per_unit = 16 / kElementBytes, steps = per_unit / 4;
    return (member + 4 * (step / steps)) * per_unit + step % steps * 4;
}

struct Queries {
    uint32_t of[kColumns][kSteps][2];  // float16 pairs
    float unit[kColumns];              // of the row that this lane loads: query = unit * float16
};

__device__ __forceinline__ float2 pair_at(const __half* p) { return __half22float2(*reinterpret_cast<const __half2*>(p)); }
__device__ __forceinline__ float2 pair_at(const __nv_bfloat16* p) {
    return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(p));
}

// Query rows from `rows` on, of which `count` exist.
__device__ __forceinline__ void load_queries(Queries& q, const INPUT* rows, int count, const Lane& lane) {
#pragma unroll
    for (int c = 0; c < kColumns; c++) {
        const int row = 8 * c + lane.group;
        const bool exists = row < count;
        const INPUT* from = rows + size_t(row) * kHeadDim;
        q.unit[c] = 1.0f;
        if (kIsHalf) {
#pragma unroll
            for (int s = 0; s < kSteps; s += 2) {  // neighbours in memory, too
                const Words4 eight = exists ? *reinterpret_cast<const Words4*>(from + first_dim(s, lane.member)) : Words4{};
                q.of[c][s][0] = eight.of[0], q.of[c][s][1] = eight.of[1];
                q.of[c][s + 1][0] = eight.of[2], q.of[c][s + 1][1] = eight.of[3];
            }
        } else {
            // bfloat16 has more range than float16 and fewer digits: with a power of two taken out of each row, only what is
            // 2^-29 of the row's greatest element or less is lost.
            float2 pairs[kSteps][2];
            float greatest = 0.0f;
#pragma unroll
            for (int s = 0; s < kSteps; s++) {
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    pairs[s][i] = exists ? pair_at(from + first_dim(s, lane.member) + 2 * i) : float2{};
                    greatest = fmaxf(greatest, fmaxf(fabsf(pairs[s][i].x), fabsf(pairs[s][i].y)));
                }
            }
            greatest = fmaxf(greatest, __shfl_xor_sync(~0u, greatest, 1));
            greatest = fmaxf(greatest, __shfl_xor_sync(~0u, greatest, 2));
            const int exponent = max(int(__float_as_uint(greatest) >> 23), 32);  // of the greatest, biased by 127
            const float shrink = __uint_as_float(uint32_t(254 + 4 - exponent) << 23);  // so that it lies in [16, 32)
            q.unit[c] = __uint_as_float(uint32_t(exponent - 4) << 23);
#pragma unroll
            for (int s = 0; s < kSteps; s++) {
#pragma unroll
                for (int i = 0; i < 2; i++) q.of[c][s][i] = half_pair(pairs[s][i].x * shrink, pairs[s][i].y * shrink);
            }
        }
    }
}

// ---- one tile

// What a warp knows of its rows: for columns c, outputs of dimensions that output_dim() names and rows 8 c + 2 member
// and + 1, the rows' references, and this lane's share of the sum of their weights.
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

using Scores = float[kHalves][kColumns][4];  // [][][2 j + i]: slot 2 group + j of 16, row 2 member + i of 8

__device__ __forceinline__ void score(Scores& scores, const Queries& q, const Stage& stage, const Lane& lane) {
    constexpr int loads = kSteps * kElementBytes / 4;  // 16 bytes each, of a lane and slot
#pragma unroll
    for (int h = 0; h < kHalves; h++) {
        // Two sums of every score, so that no instruction waits for the one before it.
        float odd[kColumns][4];
#pragma unroll
        for (int c = 0; c < kColumns; c++)
#pragma unroll
            for (int i = 0; i < 4; i++) scores[h][c][i] = odd[c][i] = 0.0f;
#pragma unroll
        for (int l = 0; l < loads; l++) {
            Words4 keys[2];
#pragma unroll
            for (int j = 0; j < 2; j++)
                keys[j] = reinterpret_cast<const Words4*>(stage.keys)[key_unit(16 * h + 2 * lane.group + j, lane.member + 4 * l)];
#pragma unroll
            for (int i = 0; i < 4 / kElementBytes; i++) {
                uint32_t a[4];
#pragma unroll
                for (int j = 0; j < 2; j++) {
#if CODES == FLOATS
                    a[j] = keys[j].of[2 * i], a[j + 2] = keys[j].of[2 * i + 1];
#else
                    decode(keys[j].of[i], a[j], a[j + 2]);
#endif
                }
                const int step = l * (4 / kElementBytes) + i;
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

// The slots that a query row sees.
struct Seen {
    int begin, end;
};

// Scores to weights, as mma's second operand. `factor` makes of a row's scores logarithms to the base 2.
//
// A value's own scale multiplies its weight, and the product must fit float16. So the reference follows the greatest
// product, not the greatest weight: products are at most 2^15, whatever the scales are, and what is lost below is 2^-31
// of the greatest. The sum that divides the output in the end is of the weights alone, in float32.
template <typename SeenBy>
__device__ __forceinline__ void weigh(uint32_t (&weights)[kHalves][kColumns][2], Running& r, Scores& scores, const float (&factor)[kColumns][2],
                                      const float2 (&key_scale)[kHalves], const float2 (&value_scale)[kHalves],
                                      bool is_partly_seen, int first_slot, SeenBy seen_by, const Lane& lane) {
    float2 logarithm[kHalves];
#pragma unroll
    for (int h = 0; h < kHalves; h++)
        if (kPerToken)  // never of 0: the least float16 above it will do
            logarithm[h] = {log2_of(fmaxf(value_scale[h].x, 0x1p-24f)), log2_of(fmaxf(value_scale[h].y, 0x1p-24f))};
    float top[kColumns][2];
    bool grew = false;
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
                    x *= kPerToken ? factor[c][i] * (j ? key_scale[h].y : key_scale[h].x) : factor[c][i];
                    if (is_partly_seen) {
                        const int slot = first_slot + 16 * h + 2 * lane.group + j;
                        if (slot < seen.begin || slot >= seen.end) x = -INFINITY;
                    }
                    top[c][i] = fmaxf(top[c][i], kPerToken ? x + (j ? logarithm[h].y : logarithm[h].x) : x);
                }
            }
            grew |= top[c][i] > r.reference[c][i] + (kHeadroom + kPatience);
        }
    }
    if (__any_sync(~0u, grew)) {
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
                if (kPerToken) w[i] *= i < 2 ? value_scale[h].x : value_scale[h].y;
            }
            weights[h][c][0] = transposed(half_pair(w[0], w[1]));
            weights[h][c][1] = transposed(half_pair(w[2], w[3]));
        }
    }
}

// Values are the first operand turned on its side: dimensions x slots. A lane loads the same bytes of four slots and
// pairs them across the slots, which turns them for nothing.
constexpr int kValueBytes = kTokenBytes / 8 < 16 ? 8 : 16;             // that a lane loads of a slot at once
constexpr int kValueLoads = kTokenBytes / 8 / kValueBytes;             // of a slot
constexpr int kLoadDims = kValueBytes / kElementBytes;                 // dimensions of one load
constexpr int kLoadSteps = kLoadDims / 2;                              // outputs[][step] that they feed

// The lower of the two dimensions of output[c][step] that a lane has: [0] and [1] are of it, [2] and [3] of the next.
__device__ __forceinline__ int output_dim(int step, int group) {
    return (step / kLoadSteps * 8 + group) * kLoadDims + step % kLoadSteps * 2;
}

__device__ __forceinline__ void add_values(Running& r, const uint32_t (&weights)[kHalves][kColumns][2], const Stage& stage, const Lane& lane) {
#pragma unroll
    for (int h = 0; h < kHalves; h++) {
#pragma unroll
        for (int l = 0; l < kValueLoads; l++) {
            uint32_t values[4][kValueBytes / 4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int slot = 16 * h + 4 * lane.member + i, byte = (8 * l + lane.group) * kValueBytes;
                const uint8_t* from = stage.values() + 16 * value_unit(slot, byte / 16) + byte % 16;
                if (kValueBytes == 16) {
                    const Words4 x = *reinterpret_cast<const Words4*>(from);
#pragma unroll
                    for (int w = 0; w < kValueBytes / 4; w++) values[i][w] = x.of[w];
                } else {
                    const Words2 x = *reinterpret_cast<const Words2*>(from);
                    values[i][0] = x.of[0], values[i][1] = x.of[1];
                }
            }
#pragma unroll
            for (int w = 0; w < kValueBytes / 4; w++) {
                // mma's columns 2 member and + 1 are slots 0 and 2 of the lane's four, columns + 8 and + 9 slots 1 and 3.
                const uint32_t a0 = values[0][w], a1 = values[2][w], b0 = values[1][w], b1 = values[3][w];
#if CODES == FLOATS
                const uint32_t pair[4] = {bytes_of(a0, a1, 0x5410), bytes_of(a0, a1, 0x7632), bytes_of(b0, b1, 0x5410), bytes_of(b0, b1, 0x7632)};
#pragma unroll
                for (int c = 0; c < kColumns; c++) multiply(r.output[c][l * kLoadSteps + w], pair, weights[h][c]);
#else
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    uint32_t pair[4];
                    decode(bytes_of(a0, a1, i ? 0x7362 : 0x5140), pair[0], pair[1]);
                    decode(bytes_of(b0, b1, i ? 0x7362 : 0x5140), pair[2], pair[3]);
#pragma unroll
                    for (int c = 0; c < kColumns; c++) multiply(r.output[c][l * kLoadSteps + 2 * w + i], pair, weights[h][c]);
                }
#endif
            }
        }
    }
}

// Whatever lies in slots that no row sees must not be multiplied, not even by zero: it may be NaN.
__device__ __forceinline__ void clear_unseen(const Stage& stage, int first_slot, Seen by_any, const Lane& lane) {
    if (CODES == INT8_PER_TOKEN || CODES == INT8_PER_HEAD) return;  // all codes are numbers
#pragma unroll
    for (int i = 0; i < kCopies; i++) {
        const int linear = lane.index + 32 * i, slot = first_slot + linear / kUnits;
        if (slot < by_any.begin || slot >= by_any.end)
            reinterpret_cast<Words4*>(stage.values())[value_unit(linear / kUnits, linear % kUnits)] = Words4{};
    }
    __syncwarp();
}

// ---- from warps to blocks

constexpr int kRowThreads = kSliceDim / 4;                // each has four dimensions of a row
constexpr int kRowsAtOnce = kThreads / kRowThreads;
#ifndef BATCH
#define BATCH 16
#endif
constexpr int kBatch = BATCH;                             // parts that a thread asks for at once
constexpr int kMergeBytes = kThreads * 32;

// Shared memory is the warps' rings first, then what merging needs.
constexpr int kWarpFloats = kRows * kHeadDim;
constexpr int kMergeAt = kCluster > 1 ? 4 * kWarpFloats : 0;  // other blocks of the cluster may still read what is before it
constexpr int kFewestBytes = kRingBytes > 4 * kWarpFloats ? kRingBytes : 4 * kWarpFloats;
constexpr int kSharedBytes = kFewestBytes > kMergeAt + kMergeBytes ? kFewestBytes : kMergeAt + kMergeBytes;
constexpr int kWarpsAtOnce = kSharedBytes / (4 * kWarpFloats) < kWarps ? kSharedBytes / (4 * kWarpFloats) : kWarps;
constexpr int kQuads = kWarpFloats / 4;                             // a row's four neighbouring dimensions
constexpr int kQuadsEach = (kQuads + kThreads - 1) / kThreads;     // of a thread
static_assert(kSharedBytes <= 48 * 1024, "more is not granted without asking");

struct Totals {  // of the warps, then of the splits' merge
    float reference[kWarps][kRows];
    float sum[kWarps][kRows];
};

__device__ __forceinline__ float4 operator*(float4 x, float y) { return {x.x * y, x.y * y, x.z * y, x.w * y}; }
__device__ __forceinline__ float4 operator+(float4 x, float4 y) { return {x.x + y.x, x.y + y.y, x.z + y.z, x.w + y.w}; }

// Adds up the warps' outputs in their order: quad i of this thread is number threadIdx.x + i * kThreads of the block's.
__device__ __forceinline__ void merge_warps(float4 (&quads)[kQuadsEach], Totals& totals, const Running& r, float* shared, int rows, const Lane& lane) {
    const int warp = threadIdx.x / 32;
    float sum[kColumns][2];
#pragma unroll
    for (int c = 0; c < kColumns; c++) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            sum[c][i] = r.sum[c][i];
#pragma unroll
            for (int distance = 4; distance < 32; distance *= 2) sum[c][i] += __shfl_xor_sync(~0u, sum[c][i], distance);
            if (lane.group == 0) {
                totals.reference[warp][8 * c + 2 * lane.member + i] = r.reference[c][i];
                totals.sum[warp][8 * c + 2 * lane.member + i] = sum[c][i];
            }
        }
    }
#pragma unroll
    for (int i = 0; i < kQuadsEach; i++) quads[i] = {};
    __syncthreads();  // and all warps are done with their rings
    float weight[kColumns][2];
#pragma unroll
    for (int c = 0; c < kColumns; c++) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float top = kNothing;
#pragma unroll
            for (int w = 0; w < kWarps; w++) top = fmaxf(top, totals.reference[w][8 * c + 2 * lane.member + i]);
            weight[c][i] = exp2_of(r.reference[c][i] - top);
        }
    }
#pragma unroll
    for (int first = 0; first < kWarps; first += kWarpsAtOnce) {
        if (first > 0) __syncthreads();
        if (warp >= first && warp < first + kWarpsAtOnce) {
#pragma unroll
            for (int c = 0; c < kColumns; c++) {
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    const int row = 8 * c + 2 * lane.member + i;
                    float* to = shared + (warp - first) * kWarpFloats + row * kHeadDim;
                    if (row < rows) {
#pragma unroll
                        for (int s = 0; s < kSteps; s += 2)
                            *reinterpret_cast<float4*>(to + output_dim(s, lane.group)) =
                                float4{r.output[c][s][i], r.output[c][s][i + 2], r.output[c][s + 1][i], r.output[c][s + 1][i + 2]} * weight[c][i];
                    }
                }
            }
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < kQuadsEach; i++) {
            const int quad = threadIdx.x + i * kThreads;
            if (quad < rows * (kHeadDim / 4)) {
#pragma unroll
                for (int w = first; w < first + kWarpsAtOnce && w < kWarps; w++)
                    quads[i] = quads[i] + reinterpret_cast<const float4*>(shared + (w - first) * kWarpFloats)[quad];
            }
        }
    }
}

// The reference and the sum of weights of all warps.
__device__ __forceinline__ float2 total_of(const Totals& totals, int row) {
    float top = kNothing, sum = 0.0f;
#pragma unroll
    for (int w = 0; w < kWarps; w++) top = fmaxf(top, totals.reference[w][row]);
#pragma unroll
    for (int w = 0; w < kWarps; w++) sum += totals.sum[w][row] * exp2_of(totals.reference[w][row] - top);
    return {top, sum};
}

// ---- from blocks to clusters

#if CLUSTER > 1
__device__ __forceinline__ void cluster_arrives() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
__device__ __forceinline__ void cluster_waits() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }

__device__ __forceinline__ uint32_t address_in(int block, const void* p) {
    uint32_t address;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared_address(p)), "r"(block));
    return address;
}

__device__ __forceinline__ float4 float4_at(uint32_t address) {
    float4 x;
    asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w) : "r"(address));
    return x;
}

__device__ __forceinline__ float2 float2_at(uint32_t address) {
    float2 x;
    asm volatile("ld.shared::cluster.v2.f32 {%0, %1}, [%2];" : "=f"(x.x), "=f"(x.y) : "r"(address));
    return x;
}

constexpr int kSliceQuadsEach = (kRows * kRowThreads + kThreads - 1) / kThreads;

// Every block adds up its slice of the dimensions, in the order of the blocks: quad i of this thread is number
// threadIdx.x + i * kThreads of the slice's.
__device__ __forceinline__ void merge_blocks(float4 (&sums)[kSliceQuadsEach], float2 (&totals_)[kSliceQuadsEach], const float4 (&quads)[kQuadsEach],
                                             const Totals& totals, float* shared, int rows, int slice) {
    __shared__ float2 block_total[kRows];
    __syncthreads();  // all have read what merge_warps left
#pragma unroll
    for (int i = 0; i < kQuadsEach; i++)
        if (threadIdx.x + i * kThreads < rows * (kHeadDim / 4)) reinterpret_cast<float4*>(shared)[threadIdx.x + i * kThreads] = quads[i];
    if (threadIdx.x < rows) block_total[threadIdx.x] = total_of(totals, threadIdx.x);
    cluster_arrives();
    cluster_waits();
#pragma unroll
    for (int i = 0; i < kSliceQuadsEach; i++) {
        const int quad = threadIdx.x + i * kThreads, row = quad / kRowThreads;
        sums[i] = {};
        if (row >= rows) continue;
        float2 total[kCluster];
        float4 part[kCluster];
        float top = kNothing;
#pragma unroll
        for (int b = 0; b < kCluster; b++) {
            total[b] = float2_at(address_in(b, block_total + row));
            part[b] = float4_at(address_in(b, shared + row * kHeadDim + slice * kSliceDim + quad % kRowThreads * 4));
        }
#pragma unroll
        for (int b = 0; b < kCluster; b++) top = fmaxf(top, total[b].x);
        totals_[i] = {top, 0.0f};
#pragma unroll
        for (int b = 0; b < kCluster; b++) {
            const float weight = exp2_of(total[b].x - top);
            totals_[i].y += total[b].y * weight;
            sums[i] = sums[i] + part[b] * weight;
        }
    }
    cluster_arrives();  // this block no longer reads the others' memory; it waits for them before it ends
}
#endif

__device__ __forceinline__ void put(__half* to, float4 x) {
    *reinterpret_cast<Words2*>(to) = Words2{{half_pair(x.x, x.y), half_pair(x.z, x.w)}};
}

__device__ __forceinline__ void put(__nv_bfloat16* to, float4 x) {
    reinterpret_cast<__nv_bfloat162*>(to)[0] = __floats2bfloat162_rn(x.x, x.y);
    reinterpret_cast<__nv_bfloat162*>(to)[1] = __floats2bfloat162_rn(x.z, x.w);
}

// ---- from blocks to the output


// What rows hold together: the greater reference, and sums relative to it.
struct alignas(16) Part {
    float4 output;
    float2 total;  // reference, sum of weights
};

// Adds up a slice's `splits` parts. A thread asks for all it adds up at once, weights included, so that the block waits
// for memory once. Where rows are few, teams of threads share a row and take every second (third ...) part each; the
// order of the additions depends on the numbers of parts and rows alone.
__device__ __forceinline__ void merge_splits(INPUT* output, const float* partials, int splits, int rows, float value_unit, uint8_t* shared) {
    Part* shares = reinterpret_cast<Part*>(shared);
    const int thread = threadIdx.x, quad = thread % kRowThreads, place = thread / kRowThreads;
    const int teams = rows < kRowsAtOnce ? kRowsAtOnce / rows : 1, team = place / rows;
    for (int row = place % rows; row < rows; row += kRowsAtOnce) {
        Part sum{{}, {kNothing, 0.0f}};
        if (team < teams) {
            for (int first = team; first < splits; first += kBatch * teams) {
                Part part[kBatch];
#pragma unroll
                for (int i = 0; i < kBatch; i++) {
                    const int split = first + i * teams;
                    const float* from = partials + size_t(split) * kPartialFloats;
                    part[i] = {{}, {kNothing, 0.0f}};
                    if (split < splits) {
                        part[i].total = __ldcg(reinterpret_cast<const float2*>(from + kRows * kSliceDim) + row);
                        part[i].output = __ldcg(reinterpret_cast<const float4*>(from + row * kSliceDim) + quad);
                    }
                }
                float top = sum.total.x;
#pragma unroll
                for (int i = 0; i < kBatch; i++) top = fmaxf(top, part[i].total.x);
                const float shrink = exp2_of(sum.total.x - top);
                sum = {sum.output * shrink, {top, sum.total.y * shrink}};
#pragma unroll
                for (int i = 0; i < kBatch; i++) {
                    const float weight = exp2_of(part[i].total.x - top);
                    sum.output = sum.output + part[i].output * weight;
                    sum.total.y += part[i].total.y * weight;
                }
            }
        }
        if (teams > 1) {
            shares[thread] = sum;
            __syncthreads();
            for (int i = 1; team == 0 && i < teams; i++) {
                const Part other = shares[thread + i * rows * kRowThreads];
                const float top = fmaxf(sum.total.x, other.total.x), mine = exp2_of(sum.total.x - top), its = exp2_of(other.total.x - top);
                sum = {sum.output * mine + other.output * its, {top, sum.total.y * mine + other.total.y * its}};
            }
        }
        if (team == 0) put(output + size_t(row) * kHeadDim + 4 * quad, sum.output * (sum.total.y > 0.0f ? value_unit / sum.total.y : 0.0f));
    }
}

// True in the block that arrives last of `arrivals`; the counter is 0 before the first and after the last.
__device__ __forceinline__ bool is_last(uint32_t* counter, int arrivals) {
    __shared__ uint32_t arrived;
    __syncthreads();
    if (threadIdx.x == 0) {
        asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;" : "=r"(arrived) : "l"(counter), "r"(arrivals - 1) : "memory");
    }
    __syncthreads();
    return arrived == arrivals - 1;
}

// ---- the kernel

#if CODES == INT8_PER_TOKEN
#define SCALES const __half *__restrict__ key_scale, const __half *__restrict__ value_scale,
#define STORED uint8_t
#elif CODES == FLOATS
#define SCALES
#define STORED __half
#else
#define SCALES const float *__restrict__ key_scale, const float *__restrict__ value_scale,
#define STORED uint8_t
#endif

#if CLUSTER > 1
#define CLUSTERED __cluster_dims__(CLUSTER, 1, 1)
#else
#define CLUSTERED
#endif

// Blocks: (splits x tiles of query rows, heads of keys, rows of the batch). `group` query heads share a head of keys;
// with `tokens` new tokens they make group * tokens query rows, row number head * tokens + token. `softmax_scale` holds
// the bits of a float.
extern "C" __global__ void __launch_bounds__(kThreads, BLOCKS) CLUSTERED
KERNEL(const INPUT* __restrict__ query, const STORED* __restrict__ key_cache, const STORED* __restrict__ value_cache, SCALES
       const int64_t* __restrict__ lengths, uint32_t* counters, int slots, int group, int tokens, int window, int softmax_scale,
       INPUT* __restrict__ output, float* partials) {
    __shared__ __align__(128) uint8_t shared[kSharedBytes];
    __shared__ Totals totals;
    const Lane lane;
    const int warp = threadIdx.x / 32, head = blockIdx.y, batch_row = blockIdx.z, row_and_head = batch_row * gridDim.y + head;
    int64_t length_;
    asm volatile("ld.global.nc.b64 %0, [%1];" : "=l"(length_) : "l"(lengths + batch_row));

    const int all_rows = group * tokens;
    int splits = gridDim.x, split = blockIdx.x, first_row = 0, row_tile = row_and_head;
    if (all_rows > kRows) {
        const int row_tiles = (all_rows + kRows - 1) / kRows;
        splits /= row_tiles;
        split = blockIdx.x % splits;
        first_row = blockIdx.x / splits * kRows;
        row_tile = row_and_head * row_tiles + first_row / kRows;
    }
    const int rows = min(kRows, all_rows - first_row);

    const size_t first_of_head = size_t(row_and_head) * slots;
    Cache cache{reinterpret_cast<const uint8_t*>(key_cache) + first_of_head * kTokenBytes,
                reinterpret_cast<const uint8_t*>(value_cache) + first_of_head * kTokenBytes, nullptr, nullptr};
#if CODES == INT8_PER_TOKEN
    cache.key_scale = key_scale + first_of_head, cache.value_scale = value_scale + first_of_head;
#endif
    uint8_t* ring = shared + warp * (kStages * kStageBytes);
    const int stride = splits * kWarps, own = split * kWarps + warp;

    // A single sequence without a window: its first tile is where it is whatever its length, so reading begins before the
    // length is known.
    const bool is_early = gridDim.z <= EARLY && window == INT32_MAX;
    const int last_tile = slots / kTile;
    if (is_early && own < last_tile) {
        copy_keys(Stage(ring), cache, own * kTile, lane);
        end_of_copies();
        copy_values(Stage(ring), cache, own * kTile, lane);
        end_of_copies();
    }
    const INPUT* rows_of_block = query + (size_t(row_and_head) * all_rows + first_row) * kHeadDim;
    Queries q;
    load_queries(q, rows_of_block, rows, lane);

    // A row of token n sees the slots of the newest `window` positions up to its own, length + n.
    const int length = int(min(max(length_, int64_t(-1) << 30), int64_t(1) << 30));
    auto seen_by = [&](int row) {
        const int next = length + (first_row + row) % tokens + 1;
        return Seen{max(next - window, 0), min(next, slots)};
    };
    const Seen by_any{max(length + 1 - window, 0), min(length + tokens, slots)};
    const Seen by_all{max(length + tokens - window, 0), min(length + 1, slots)};
    const int first_tile = by_any.begin / kTile;
    const int tiles = by_any.end > by_any.begin ? (by_any.end + kTile - 1) / kTile - first_tile : 0;
    const int working = min(splits, (tiles + kWarps - 1) / kWarps);  // blocks that have a tile at all

    if (split / kCluster * kCluster >= working) {
        if (working == 0 && split == 0)
            for (int i = threadIdx.x; i < rows * (kHeadDim / 4); i += kThreads)
                put(output + (size_t(row_and_head) * all_rows + first_row) * kHeadDim + 4 * i, float4{});
        wait_for_all_but<0>();
        return;
    }

    const int end_tile = first_tile + tiles;
    int next_copy = first_tile + own;
#pragma unroll
    for (int s = 0; s < kStages; s++) {
        if (s > 0 || !is_early || own >= last_tile) {
            Stage stage(ring + s * kStageBytes);
            if (next_copy < end_tile) copy_keys(stage, cache, next_copy * kTile, lane);
            end_of_copies();
            if (next_copy < end_tile) copy_values(stage, cache, next_copy * kTile, lane);
            end_of_copies();
        }
        next_copy += stride;
    }

    float key_unit_ = kCodeUnit, value_unit = kCodeUnit;
#if CODES == INT8_PER_HEAD || CODES == FP8_PER_HEAD
    key_unit_ *= key_scale[head], value_unit *= value_scale[head];
#endif
    // Scores times this are logarithms to the base 2. The unit of a query row is known to the lanes that loaded the row.
    float factor[kColumns][2];
#pragma unroll
    for (int c = 0; c < kColumns; c++)
#pragma unroll
        for (int i = 0; i < 2; i++)
            factor[c][i] = __int_as_float(softmax_scale) * 1.4426950408889634f * key_unit_ *
                           (kIsHalf ? 1.0f : __shfl_sync(~0u, q.unit[c], 4 * (2 * lane.member + i)));

    Running running;
    clear(running);
    int place = 0;
    for (int tile = first_tile + own; tile < end_tile; tile += stride, next_copy += stride) {
        Stage stage(ring + place * kStageBytes);
        place = place + 1 == kStages ? 0 : place + 1;
        const int first_slot = tile * kTile;
        const bool is_partly_seen = first_slot < by_all.begin || first_slot + kTile > by_all.end;

        wait_for_all_but<2 * kStages - 1>();
        __syncwarp();
        Scores scores;
        score(scores, q, stage, lane);
        float2 of_keys[kHalves], of_values[kHalves];
#pragma unroll
        for (int h = 0; h < kHalves; h++) {
            if (kPerToken) {
                of_keys[h] = pair_at(stage.key_scale() + 16 * h + 2 * lane.group);
                of_values[h] = pair_at(stage.value_scale() + 16 * h + 2 * lane.group);
                if (is_partly_seen) {
                    const int slot = first_slot + 16 * h + 2 * lane.group;
                    if (slot < by_any.begin || slot >= by_any.end) of_values[h].x = 0.0f;
                    if (slot + 1 < by_any.begin || slot + 1 >= by_any.end) of_values[h].y = 0.0f;
                }
            }
        }
        __syncwarp();
        if (next_copy < end_tile) copy_keys(stage, cache, next_copy * kTile, lane);
        end_of_copies();

        uint32_t weights[kHalves][kColumns][2];
        weigh(weights, running, scores, factor, of_keys, of_values, is_partly_seen, first_slot, seen_by, lane);

        wait_for_all_but<2 * kStages - 1>();
        __syncwarp();
        if (is_partly_seen) clear_unseen(stage, first_slot, by_any, lane);
        add_values(running, weights, stage, lane);
        __syncwarp();
        if (next_copy < end_tile) copy_values(stage, cache, next_copy * kTile, lane);
        end_of_copies();
    }
    wait_for_all_but<0>();

    float4 quads[kQuadsEach];
    merge_warps(quads, totals, running, reinterpret_cast<float*>(shared), rows, lane);


    // What this block has now is a slice of all dimensions: of the cluster's results, or of its own.
#if CLUSTER > 1
    float4 sums[kSliceQuadsEach];
    float2 sum_totals[kSliceQuadsEach];
    const int slice = split % kCluster, part = split / kCluster, parts = (working + kCluster - 1) / kCluster, all_parts = splits / kCluster;
    merge_blocks(sums, sum_totals, quads, totals, reinterpret_cast<float*>(shared), rows, slice);
    constexpr int each = kSliceQuadsEach;
#else
    const auto& sums = quads;
    const int slice = 0, part = split, parts = working, all_parts = splits;
    constexpr int each = kQuadsEach;
#endif
    INPUT* to = output + (size_t(row_and_head) * all_rows + first_row) * kHeadDim + slice * kSliceDim;
    float* all_partials = partials + size_t(row_tile * kCluster + slice) * all_parts * kPartialFloats;
    float* own_partial = all_partials + size_t(part) * kPartialFloats;
#pragma unroll
    for (int i = 0; i < each; i++) {
        const int quad = threadIdx.x + i * kThreads, row = quad / kRowThreads;
        if (row >= rows) continue;
#if CLUSTER > 1
        const float2 total = sum_totals[i];
#else
        const float2 total = total_of(totals, row);
#endif
        if (parts == 1) {
            put(to + row * kHeadDim + quad % kRowThreads * 4, sums[i] * (total.y > 0.0f ? value_unit / total.y : 0.0f));
        } else {
            __stcg(reinterpret_cast<float4*>(own_partial) + quad, sums[i]);
            if (quad % kRowThreads == 0) __stcg(reinterpret_cast<float2*>(own_partial + kRows * kSliceDim) + row, total);
        }
    }
    if (parts > 1 && is_last(counters + row_tile * kCluster + slice, parts))
        merge_splits(to, all_partials, parts, rows, value_unit, shared + kMergeAt);
#if CLUSTER > 1
    cluster_waits();
#endif
}
