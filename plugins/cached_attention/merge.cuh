// Results that belong together: those of a block's warps, and those of all blocks that shared a head's slots.
//
// Each result has a reference for every row, and is relative to it. Whoever adds results up takes the greatest reference
// and scales all others to it, in a fixed order: two runs give the same bits.
//
// What counts here is waiting, not work: at the end of a launch nothing else is left to do. So each step asks for all it
// needs at once.
#pragma once

#include "attention.cuh"

// Threads work on quads: four neighbouring dimensions of a row.
constexpr int kQuads = kHeadDim / 4;  // of a row
constexpr int kQuadsEach = (kRows * kQuads + kThreads - 1) / kThreads;

// What blocks tell each other of a row: its outputs, its reference and sum, and two floats more to keep 16 bytes whole.
constexpr int kRecord = kHeadDim + 4;

struct Total {
    float reference, sum;
};

// What makes of an output relative to a reference the output: nothing where no slot was seen.
__device__ __forceinline__ float normal(const Total& total, float value_unit) {
    return total.sum > 0.0f ? __fdividef(value_unit, total.sum) : 0.0f;
}

struct alignas(16) Part {
    float4 quad;
    Total total;
};

// The sum of kCount parts, which are all asked for before the first is used.
template <int kCount, typename PartAt>
__device__ __forceinline__ Part sum_of_parts(PartAt part_at) {
    Part part[kCount];
#pragma unroll
    for (int i = 0; i < kCount; i++) part[i] = part_at(i);
    Part sum{{}, {kNothing, 0.0f}};
#pragma unroll
    for (int i = 0; i < kCount; i++) sum.total.reference = fmaxf(sum.total.reference, part[i].total.reference);
#pragma unroll
    for (int i = 0; i < kCount; i++) {
        const float weight = exp2_of(part[i].total.reference - sum.total.reference);
        sum.quad = sum.quad + part[i].quad * weight;
        sum.total.sum += part[i].total.sum * weight;
    }
    return sum;
}

__device__ __forceinline__ Part sum_of(const Part& a, const Part& b) {
    return sum_of_parts<2>([&](int i) { return i == 0 ? a : b; });
}

// ---- the warps of a block

// A warp leaves its outputs where its ring was, and waits for no other. Quads are permuted such that its lanes, which have
// every second row, hit all banks.
constexpr int kLeftBytes = 4 * kRows * kHeadDim;
static_assert(kLeftBytes <= kRingBytes, "a warp's results take the place of its ring");

constexpr int kRings = kWarps * kRingBytes, kShares = kThreads * int(sizeof(Part));  // shared memory serves one after the other
constexpr int kSharedBytes = kRings > kShares ? kRings : kShares;

struct Totals {
    Total of[kWarps][kRows];
};
static_assert(kSharedBytes + sizeof(Totals) + 64 <= 48 * 1024, "more is granted only to those who can ask for it");

__device__ __forceinline__ uint32_t left_at(int row, int quad) {
    return 16 * (row * kQuads + (quad ^ (row >> 1 & 3)));
}

__device__ __forceinline__ void leave(uint32_t to, Total (&totals)[kRows], const Running& r, int rows, const Lane& lane) {
    float sum[kColumns][2];
#pragma unroll
    for (int distance = 4; distance < 32; distance *= 2)
#pragma unroll
        for (int c = 0; c < kColumns; c++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                if (distance == 4) sum[c][i] = r.sum[c][i];
                sum[c][i] += __shfl_xor_sync(~0u, sum[c][i], distance);
            }
#pragma unroll
    for (int c = 0; c < kColumns; c++) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int row = 8 * c + 2 * lane.member + i;
            if (row >= rows) continue;
            if (lane.group == 0) totals[row] = {r.reference[c][i], sum[c][i]};
#pragma unroll
            for (int s = 0; s < kSteps; s += 2)
                asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(to + left_at(row, output_dim(s, lane.group) / 4)),
                             "f"(r.output[c][s][i]), "f"(r.output[c][s][i + 2]), "f"(r.output[c][s + 1][i]),
                             "f"(r.output[c][s + 1][i + 2]) : "memory");
        }
    }
}

// What all warps left of one quad.
__device__ __forceinline__ Part sum_of_warps(uint32_t rings, const Totals& totals, int row, int quad) {
    const uint32_t left = rings + left_at(row, quad);
    return sum_of_parts<kWarps>([&](int warp) {
        Part x;
        asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                     : "=f"(x.quad.x), "=f"(x.quad.y), "=f"(x.quad.z), "=f"(x.quad.w) : "r"(left + warp * kRingBytes));
        x.total = totals.of[warp][row];
        return x;
    });
}

// ---- all blocks of a head

// True in the block that arrives last of `arrivals`. The counter is 0 before the first arrives and after the last has.
__device__ __forceinline__ bool is_last(uint32_t* counter, int arrivals) {
    __shared__ uint32_t before;
    __syncthreads();
    if (threadIdx.x == 0)
        asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;"
                     : "=r"(before) : "l"(counter), "r"(arrivals - 1) : "memory");
    __syncthreads();
    return before == arrivals - 1;
}

constexpr int kBatch = 16;  // parts that a thread asks for before it adds up: it waits for memory once

// Adds up the parts of a head and writes the output. Where rows are few, teams of threads share a row, and a batch of
// parts each.
__device__ __forceinline__ void merge_partials(INPUT* output, const float* partials, int parts, int rows,
                                               float value_unit, Part* shares) {
    constexpr int places = kThreads / kQuads;  // of which each takes a row
    const int log2_rows = 32 - __clz(rows - 1), teams = max(places >> log2_rows, 1);
    const int thread = threadIdx.x, quad = thread % kQuads, place = thread / kQuads;
    const int team = teams > 1 ? place >> log2_rows : 0;
#pragma unroll
    for (int first_row = 0; first_row < kRows; first_row += places) {
        const int row = first_row + (teams > 1 ? place & ((1 << log2_rows) - 1) : place);
        const bool has_part = row < rows && team < teams;
        Part sum{{}, {kNothing, 0.0f}};
        for (int first = team * kBatch; has_part && first < parts; first += kBatch * teams) {
            const float* record = partials + (first * kRows + row) * kRecord;
            sum = sum_of(sum, sum_of_parts<kBatch>([&](int i) {
                if (first + i >= parts) return Part{{}, {kNothing, 0.0f}};
                const float* its = record + i * kRows * kRecord;
                const float2 total = __ldcg(reinterpret_cast<const float2*>(its + kHeadDim));
                return Part{__ldcg(reinterpret_cast<const float4*>(its) + quad), {total.x, total.y}};
            }));
        }
        if (teams > 1 && parts > kBatch) {
            shares[thread] = sum;
            __syncthreads();
            for (int t = 1; team == 0 && t < teams; t++) sum = sum_of(sum, shares[thread + (t * kQuads << log2_rows)]);
        }
        if (has_part && team == 0)
            put(output + row * kHeadDim + 4 * quad, sum.quad * normal(sum.total, value_unit));
        if (first_row + places >= rows) break;
    }
}
