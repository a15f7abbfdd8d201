// The cache's codes as float16, exactly.
#pragma once

#include "instructions.cuh"

// Four codes to two pairs of float16, in order. What they stand for is kCodeUnit times that.
__device__ __forceinline__ void decode(uint32_t codes, uint32_t& pair01, uint32_t& pair23) {
#if CODES == FP8_PER_HEAD && __CUDA_ARCH__ >= 890
    asm("{.reg .b16 low, high; mov.b32 {low, high}, %2; cvt.rn.f16x2.e4m3x2 %0, low; cvt.rn.f16x2.e4m3x2 %1, high;}"
        : "=r"(pair01), "=r"(pair23) : "r"(codes));
#elif CODES == FP8_PER_HEAD
    // E4M3's sign, and its exponent and mantissa moved to where float16 has its own: the number over 2^8.
    const uint32_t high01 = __byte_perm(codes, 0, 0x1404), high23 = __byte_perm(codes, 0, 0x3424);
    pair01 = (high01 & 0x80008000) | ((high01 & 0x7f007f00) >> 1);
    pair23 = (high23 & 0x80008000) | ((high23 & 0x7f007f00) >> 1);
#else
    // With its sign bit flipped a code is the byte code + 128; below the byte 0x64 that is the float16 1152 + code.
    const uint32_t flipped = codes ^ 0x80808080, minus_1152 = 0xe480e480;
    asm("add.f16x2 %0, %1, %2;" : "=r"(pair01) : "r"(__byte_perm(flipped, 0x64646464, 0x4140)), "r"(minus_1152));
    asm("add.f16x2 %0, %1, %2;" : "=r"(pair23) : "r"(__byte_perm(flipped, 0x64646464, 0x4342)), "r"(minus_1152));
#endif
}

#if CODES == FP8_PER_HEAD && __CUDA_ARCH__ < 890
constexpr float kCodeUnit = 256.0f;
#else
constexpr float kCodeUnit = 1.0f;
#endif
