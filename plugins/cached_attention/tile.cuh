// The cache on its way: from device memory to a warp's ring in shared memory, and to its lanes' registers.
//
// A tile is copied in units of 16 bytes, which lie in shared memory in another order: eight lanes that read at once
// must hit eight units that differ modulo 8, that is, all banks. They read keys of slots 2 apart and values of slots 4
// apart, and without that order all slots would begin in the same bank.
#pragma once

#include "instructions.cuh"

constexpr int kTokenBytes = kHeadDim * kElementBytes;
constexpr int kUnits = kTokenBytes / 16;              // of a slot
constexpr int kSideBytes = kSlots * kTokenBytes;      // a stage's keys, or its values
constexpr int kStageBytes = 2 * kSideBytes;
constexpr int kScaleBytes = kPerToken ? 2 * 2 * kTile : 0;  // a tile's
constexpr int kRingBytes = kStages * kStageBytes + 2 * kScaleBytes;  // of a warp; scales of this tile and the next are last
constexpr int kCopies = kSideBytes / 16 / 32;         // of a lane

// Where a tile's unit lies. Both are linear in the bits: place(a ^ b) = place(a) ^ place(b). So each lane finds its part
// once, and what differs between its accesses is constant.
constexpr __device__ int key_place(int unit) { return unit ^ ((unit / kUnits >> 1 & 1) << 2); }
constexpr __device__ int value_place(int unit) { return unit ^ ((unit / kUnits >> 2 & 3) << 1); }

// The address `places` further, for a constant whose bits from 3 on are 0 in the address.
__device__ __forceinline__ uint32_t moved(uint32_t address, int places) {
    return (address ^ (places % 8 * 16)) + places / 8 * 128;
}

// A lane's place. The matrix instruction knows it as `group` (0 to 7) and `member` (0 to 3). A warp's scores are slots x
// query rows: this lane's are of slots 2 group and 2 group + 1, which the instruction calls rows group and group + 8, and
// of query rows 2 member and 2 member + 1. So the scales of both slots are one word, and the four slots whose values the
// lane multiplies, 4 member to 4 member + 3, are neighbours.
struct Lane {
    int index, group, member;
    uint32_t copies_key, copies_value, reads_key, reads_value;  // bytes from a tile's start

    __device__ __forceinline__ Lane();
};

constexpr int kValueBytes = kTokenBytes / 8 < 16 ? 8 : 16;  // that a lane reads of a slot's values at once

__device__ __forceinline__ Lane::Lane() : index(threadIdx.x & 31), group(index >> 2), member(index & 3) {
    copies_key = 16 * key_place(index);
    copies_value = 16 * value_place(index);
    reads_key = 16 * key_place(2 * group * kUnits + member);
    reads_value = 16 * value_place(4 * member * kUnits + group * kValueBytes / 16) + group * kValueBytes % 16;
}

// One head of the cache, the same for all lanes of a block.
struct Cache {
    const uint8_t* keys;
    const uint8_t* values;
    const __half* key_scale;
    const __half* value_scale;
};

__device__ __forceinline__ void copy_keys(uint32_t stage, const Cache& cache, uint32_t first_slot, const Lane& lane) {
    const uint8_t* from = cache.keys + (first_slot * kTokenBytes + 16 * lane.index);
#pragma unroll
    for (int i = 0; i < kCopies; i++)
        copy_16_bytes(moved(stage + lane.copies_key, key_place(32 * i)), from + 512 * i);
}

// A tile's scales: eight a lane, the keys' and then the values'.
__device__ __forceinline__ void copy_scales(uint32_t to, const Cache& cache, uint32_t first_slot, const Lane& lane) {
    const __half* scales = lane.index < kTile / 8 ? cache.key_scale : cache.value_scale;
    if (lane.index < kTile / 4) copy_16_bytes(to + 16 * lane.index, scales + (first_slot + lane.index % (kTile / 8) * 8));
}

__device__ __forceinline__ void copy_values(uint32_t stage, const Cache& cache, uint32_t first_slot, const Lane& lane) {
    const uint8_t* from = cache.values + (first_slot * kTokenBytes + 16 * lane.index);
#pragma unroll
    for (int i = 0; i < kCopies; i++)
        copy_16_bytes(moved(stage + kSideBytes + lane.copies_value, value_place(32 * i)), from + 512 * i);
}

constexpr int kEarlyRows = 8;  // of the batch, up to which a warp's first tile is read before the row's length is known

__device__ __forceinline__ Words4 words4_at(uint32_t address) {
    Words4 x;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x.of[0]), "=r"(x.of[1]), "=r"(x.of[2]), "=r"(x.of[3]) : "r"(address));
    return x;
}

__device__ __forceinline__ Words2 words2_at(uint32_t address) {
    Words2 x;
    asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(x.of[0]), "=r"(x.of[1]) : "r"(address));
    return x;
}

// 16 bytes of keys: slot 2 group + j of half h, unit member + 4 load.
__device__ __forceinline__ Words4 read_keys(uint32_t stage, const Lane& lane, int h, int j, int load) {
    return words4_at(moved(stage + lane.reads_key, key_place((16 * h + j) * kUnits) ^ key_place(4 * load)));
}

// kValueBytes of values: slot 4 member + i of half h, bytes from (8 load + group) * kValueBytes on.
__device__ __forceinline__ void read_values(uint32_t (&words)[kValueBytes / 4], uint32_t stage, const Lane& lane, int h,
                                            int i, int load) {
    const uint32_t at = moved(stage + kSideBytes + lane.reads_value,
                              value_place((16 * h + i) * kUnits) ^ value_place(load * kValueBytes / 2));
    if constexpr (kValueBytes == 16) {
        const Words4 x = words4_at(at);
#pragma unroll
        for (int w = 0; w < 4; w++) words[w] = x.of[w];
    } else {
        const Words2 x = words2_at(at);
        words[0] = x.of[0], words[1] = x.of[1];
    }
}

// The scales of slots 2 group and 2 group + 1 from `first` on of a tile: the keys', or the values'.
__device__ __forceinline__ float2 read_scales(uint32_t scales, const Lane& lane, int first, bool of_values) {
    uint32_t pair;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(pair) : "r"(scales + (of_values ? 2 * kTile : 0) + 2 * first + 4 * lane.group));
    return __half22float2(*reinterpret_cast<const __half2*>(&pair));
}

// The slots that a query row sees.
struct Seen {
    int begin, end;
};

// Whatever lies in slots that no row sees must not be multiplied, not even by zero: it may be NaN. Integers never are.
__device__ __forceinline__ void clear_unseen_values(uint32_t stage, int first_slot, Seen by_any, const Lane& lane) {
    constexpr bool may_be_nan = CODES == FLOATS || CODES == FP8_PER_HEAD;
#pragma unroll
    for (int i = 0; may_be_nan && i < kCopies; i++) {
        const int slot = first_slot + (lane.index + 32 * i) / kUnits;
        const uint32_t at = moved(stage + kSideBytes + lane.copies_value, value_place(32 * i));
        if (slot < by_any.begin || slot >= by_any.end)
            asm volatile("st.shared.v4.u32 [%0], {%1, %1, %1, %1};" ::"r"(at), "r"(0) : "memory");
    }
    __syncwarp();
}
