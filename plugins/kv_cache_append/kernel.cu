// New keys and values into a decoder's cache, quantized where the cache is. README.md has the formulas, whose bits
// these are; plugin.yaml has the variants that are compiled from this file, and how each is launched.
//
// A group of 8, 16 or 32 lanes takes one token of one head, its key and its value, eight elements a lane, and reads the
// next while it computes. Groups stride over the tokens, so that any grid gives the same result.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

#define FLOATS 0
#define INT8_PER_TOKEN 1
#define INT8_PER_HEAD 2
#define FP8_PER_HEAD 3

#if CODES == INT8_PER_TOKEN
using Scale = __half;
#else
using Scale = float;
#endif
#if CODES == FP8_PER_HEAD
constexpr float kGreatestCode = 448.0f;
#elif CODES == INT8_PER_HEAD
constexpr float kGreatestCode = 127.0f;
#endif

constexpr int kThreads = 128;
constexpr int kPerLane = 8;
constexpr unsigned kWarp = 0xffffffff;
constexpr int kCountersPerToken = 16;  // of each head: attention's blocks count there who is last

struct Sizes {
    int rows, heads, tokens, slots, head_dim;
};

// A lane's place among all: it has elements `first` to `first + 7` of every token's head that its group takes.
struct Lane {
    int lanes;   // in a group
    int group;   // number of the group, among all of the grid
    int groups;  // in the grid
    int first;
};

__device__ __forceinline__ Lane this_lane(int head_dim) {
    const int lanes = head_dim <= 64 ? 8 : head_dim <= 128 ? 16 : 32;
    const int thread = blockIdx.x * blockDim.x + threadIdx.x;
    return {lanes, thread / lanes, int(gridDim.x * blockDim.x) / lanes, thread % lanes * kPerLane};
}

// ---- eight elements, read and written in the widest accesses that they fill

template <typename T>
struct alignas(sizeof(T) < 2 ? 8 : 16) Eight {
    T of[kPerLane];
};

__device__ __forceinline__ float as_float(float x) { return x; }
__device__ __forceinline__ float as_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float as_float(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T>
__device__ __forceinline__ Eight<T> eight_at(const T* elements) {
    return *reinterpret_cast<const Eight<T>*>(elements);
}

template <typename T, typename U>
__device__ __forceinline__ void put(T* elements, const U& eight) {
    static_assert(sizeof(U) == kPerLane * sizeof(T), "eight elements");
    *reinterpret_cast<U*>(elements) = eight;
}

// ---- codes

// NaN where either is one, unlike fmaxf.
__device__ __forceinline__ float greater(float a, float b) {
#ifdef __CUDA_ARCH__
    float found;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(found) : "f"(a), "f"(b));
    return found;
#else
    return a == a && b == b ? fmaxf(a, b) : a + b;
#endif
}

__device__ __forceinline__ float greatest_magnitude(const Eight<float>& x) {
    float amax = fabsf(x.of[0]);
#pragma unroll
    for (int i = 1; i < kPerLane; i++) amax = greater(amax, fabsf(x.of[i]));
    return amax;
}

// Zero for NaN, and what exceeds the limit at the limit.
__device__ __forceinline__ void tame(Eight<float>& x, float limit) {
#pragma unroll
    for (int i = 0; i < kPerLane; i++)
        x.of[i] = x.of[i] == x.of[i] ? fminf(fmaxf(x.of[i], -limit), limit) : 0.0f;
}

// x / scale, near enough to the true quotient to have the code of its rounding: the remainder of x * (1 / scale)
// corrects it once (Markstein), with one reciprocal for all elements of a head. A test goes through every case in which
// once might be too little. -0 becomes 0.
__device__ __forceinline__ float quotient(float x, float scale, float reciprocal) {
    const float q = __fmul_rn(x, reciprocal);
    return __fmaf_rn(__fmaf_rn(-scale, q, x), reciprocal, q);
}

// x over its scale in place: at most `greatest` in magnitude where x is at most limit = scale * greatest.
__device__ __forceinline__ void divide(Eight<float>& x, float scale) {
    const float reciprocal = __frcp_rn(scale);
#pragma unroll
    for (int i = 0; i < kPerLane; i++) x.of[i] = quotient(x.of[i], scale, reciprocal);
}

// The same under a scale that is given: any positive one. Most lanes have nothing to tame.
__device__ __forceinline__ void divide_by_any(Eight<float>& x, float scale, float greatest) {
    const float limit = __fmul_rn(scale, greatest);
    if (scale > 0x1p-60f && scale < 0x1p60f) {  // neither reciprocal nor remainder comes near 0 or infinity
        if (!(greatest_magnitude(x) <= limit)) tame(x, limit);
        divide(x, scale);
        return;
    }
#pragma unroll
    for (int i = 0; i < kPerLane; i++) {
        const float q = __fdiv_rn(x.of[i], scale);
        x.of[i] = q == q && q != 0.0f ? fminf(fmaxf(q, -greatest), greatest) : x.of[i] < 0.0f ? -0.0f : 0.0f;
    }
}

// The greatest magnitude of a token's head, for all lanes of its group: all lanes of the warp must come here.
__device__ __forceinline__ float amax_of_group(const Eight<float>& x, int lanes) {
    float amax = greatest_magnitude(x);
    for (int distance = lanes / 2; distance > 0; distance /= 2)
        amax = greater(amax, __shfl_xor_sync(kWarp, amax, distance));
    return amax;
}

// amax / 127 rounded up to float16, for a finite amax.
__device__ __forceinline__ __half token_scale(float amax) {
    return __float2half_ru(fmaxf(__fdiv_rn(amax, 127.0f), 0x1p-24f));
}

// Half to even: the sum's last bits are the whole number, for -2^22 < x < 2^22.
__device__ __forceinline__ uint32_t whole(float x) { return __float_as_uint(__fadd_rn(x, 12582912.0f)); }

__device__ __forceinline__ uint32_t four_bytes(uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
    return __byte_perm(__byte_perm(a, b, 0x0040), __byte_perm(c, d, 0x0040), 0x5410);
}

__device__ __forceinline__ uint2 int8_codes(const Eight<float>& x) {
    return {four_bytes(whole(x.of[0]), whole(x.of[1]), whole(x.of[2]), whole(x.of[3])),
            four_bytes(whole(x.of[4]), whole(x.of[5]), whole(x.of[6]), whole(x.of[7]))};
}

// E4M3 codes of two numbers of magnitude up to 448, half to even: x0 in the low byte.
__device__ __forceinline__ uint32_t e4m3_pair(float x0, float x1) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
    uint16_t pair;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(x1), "f"(x0));
    return pair;
#else
    uint32_t pair = 0;
    for (int i = 0; i < 2; i++) {
        const uint32_t bits = __float_as_uint(i ? x1 : x0), magnitude = bits & 0x7fffffff;
        const float x = __uint_as_float(magnitude);
        const uint32_t code = x < 0x1p-6f  // subnormal: whole steps of 2^-9; else 3 bits of mantissa and the bias of 7
                                  ? __float_as_uint(__fadd_rn(x, 0x1p14f)) - __float_as_uint(0x1p14f)
                                  : ((magnitude + 0x7ffff + (magnitude >> 20 & 1)) >> 20) - (120 << 3);
        pair |= (code | bits >> 31 << 7) << 8 * i;
    }
    return pair;
#endif
}

__device__ __forceinline__ uint2 fp8_codes(const Eight<float>& x) {
    return {e4m3_pair(x.of[0], x.of[1]) | e4m3_pair(x.of[2], x.of[3]) << 16,
            e4m3_pair(x.of[4], x.of[5]) | e4m3_pair(x.of[6], x.of[7]) << 16};
}

template <typename To, typename T>
__device__ __forceinline__ Eight<To> stored(const Eight<T>& x) {
    Eight<To> found;
#pragma unroll
    for (int i = 0; i < kPerLane; i++) found.of[i] = To(as_float(x.of[i]));
    return found;
}

template <>
__device__ __forceinline__ Eight<__half> stored<__half, __half>(const Eight<__half>& x) {
    return x;  // NaN keeps its bits
}

// ---- the kernel

// One lane's part of a token of one head.
struct Token {
    Eight<INPUT> key, value;
};

// Where a runtime bound two tensors of slots and their outputs to other addresses: a block takes tiles of them, and
// leaves out the slots that new tokens take. A slot is `per_slot` units.
template <typename Unit>
__device__ __forceinline__ void copy(const Unit* key, const Unit* value, Unit* key_out, Unit* value_out, int per_slot,
                                     const int64_t* lengths, const Sizes& size) {
    if (key == key_out && value == value_out) return;
    constexpr int per_thread = 4, tile = kThreads * per_thread;
    const int heads = size.rows * size.heads, units = size.slots * per_slot;  // of a head
    const int tiles = (units + tile - 1) / tile;
    for (unsigned i = blockIdx.x; i < 2u * heads * tiles; i += gridDim.x) {
        const unsigned head_of_both = i / tiles, head = head_of_both % heads;
        const Unit* from = head_of_both < heads ? key : value;
        Unit* to = head_of_both < heads ? key_out : value_out;
        if (from == to) continue;
        const int64_t length = lengths[head / size.heads], slots = size.slots;
        const int begin = int(min(max(length, int64_t(0)), slots)) * per_slot;
        const int end = int(min(max(length + size.tokens, int64_t(0)), slots)) * per_slot;
        const int first = (i - head_of_both * tiles) * tile + threadIdx.x;
        from += int64_t(head) * units + first, to += int64_t(head) * units + first;
        auto stays = [&](int unit) { return unit < units && (unit < begin || unit >= end); };
        Unit held[per_thread];
#pragma unroll
        for (int j = 0; j < per_thread; j++)
            if (stays(first + j * kThreads)) held[j] = from[j * kThreads];
#pragma unroll
        for (int j = 0; j < per_thread; j++)
            if (stays(first + j * kThreads)) to[j * kThreads] = held[j];
    }
}

#if CODES == INT8_PER_TOKEN
#define SCALES_IN const Scale *key_scale, const Scale *value_scale,
#define SCALES_OUT Scale *key_scale_out, Scale *value_scale_out,
#elif CODES == FLOATS
#define SCALES_IN
#define SCALES_OUT
#else
#define SCALES_IN const Scale *key_scale, const Scale *value_scale,
#define SCALES_OUT
#endif

extern "C" __global__ void __launch_bounds__(kThreads, 8)
KERNEL(const STORED* key_cache, const STORED* value_cache, SCALES_IN const INPUT* __restrict__ key,
       const INPUT* __restrict__ value, const int64_t* __restrict__ lengths, int rows, int heads, int tokens, int slots,
       int head_dim, STORED* key_cache_out, STORED* value_cache_out, SCALES_OUT int32_t* counters) {
    const Sizes size{rows, heads, tokens, slots, head_dim};
    const Lane lane = this_lane(head_dim);
    const int all = rows * heads * tokens, thread = blockIdx.x * kThreads + threadIdx.x;
    for (int i = thread; i < kCountersPerToken * all; i += gridDim.x * kThreads) counters[i] = 0;
    const bool has_elements = lane.first < head_dim;
    auto read = [&](unsigned i) {
        Token found{};
        if (i < all && has_elements) {
            found.key = eight_at(key + int64_t(i) * head_dim + lane.first);
            found.value = eight_at(value + int64_t(i) * head_dim + lane.first);
        }
        return found;
    };
    // All lanes of a warp stay in the loop together, because scales are found among them. What the next turn needs is
    // read before this one computes.
    const int first_of_warp = lane.group - threadIdx.x % 32 / lane.lanes;
    Token next = read(lane.group);
    for (int start = first_of_warp; start < all; start += lane.groups) {
        const unsigned i = start + lane.group - first_of_warp;
        const Token now = next;
        next = read(i + lane.groups);
        const unsigned row_and_head = i / unsigned(tokens), row = row_and_head / unsigned(heads);
        const int64_t slot = i < all ? lengths[row] + (i - row_and_head * tokens) : -1;
        const bool fits = slot >= 0 && slot < slots;
        const int64_t place = int64_t(row_and_head) * slots + slot, element = place * head_dim + lane.first;
#if CODES == FLOATS
        if (!fits || !has_elements) continue;
        put(key_cache_out + element, stored<STORED>(now.key));
        put(value_cache_out + element, stored<STORED>(now.value));
#else
        Eight<float> k = stored<float>(now.key), v = stored<float>(now.value);
#if CODES == INT8_PER_TOKEN
        float k_amax = amax_of_group(k, lane.lanes), v_amax = amax_of_group(v, lane.lanes);
        constexpr float greatest = 127.0f * 65504.0f;
        if (__any_sync(kWarp, !(greater(k_amax, v_amax) <= greatest))) {
            tame(k, greatest);
            tame(v, greatest);
            k_amax = amax_of_group(k, lane.lanes), v_amax = amax_of_group(v, lane.lanes);
        }
        const __half of_key = token_scale(k_amax), of_value = token_scale(v_amax);
        if (!fits || !has_elements) continue;
        divide(k, __half2float(of_key));
        divide(v, __half2float(of_value));
        if (lane.first == 0) {
            key_scale_out[place] = of_key;
            value_scale_out[place] = of_value;
        }
#else
        if (!fits || !has_elements) continue;
        const int head = row_and_head - row * heads;
        divide_by_any(k, key_scale[head], kGreatestCode);
        divide_by_any(v, value_scale[head], kGreatestCode);
#endif
#if CODES == FP8_PER_HEAD
        put(key_cache_out + element, fp8_codes(k));
        put(value_cache_out + element, fp8_codes(v));
#else
        put(key_cache_out + element, int8_codes(k));
        put(value_cache_out + element, int8_codes(v));
#endif
#endif
    }
    using Unit = uint4;
    copy(reinterpret_cast<const Unit*>(key_cache), reinterpret_cast<const Unit*>(value_cache),
         reinterpret_cast<Unit*>(key_cache_out), reinterpret_cast<Unit*>(value_cache_out),
         head_dim * int(sizeof(STORED)) / int(sizeof(Unit)), lengths, size);
#if CODES == INT8_PER_TOKEN
    copy(key_scale, value_scale, key_scale_out, value_scale_out, 1, lengths, size);
#endif
}
