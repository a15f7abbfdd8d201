// Instructions that C++ has no words for.
#pragma once

#include "variant.cuh"

struct alignas(16) Words4 { uint32_t of[4]; };
struct alignas(8) Words2 { uint32_t of[2]; };

__device__ __forceinline__ uint32_t shared_address(const void* p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// 16 bytes from device memory to shared memory, past the L1 cache.
__device__ __forceinline__ void copy_16_bytes(uint32_t to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}

__device__ __forceinline__ void end_of_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits for all groups of copies but the youngest ones.
template <int kYoungest>
__device__ __forceinline__ void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(kYoungest) : "memory");
}

// sums[16 x 8] += a[16 x 16] * b[16 x 8]
__device__ __forceinline__ void multiply(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// A warp's 8 x 8 matrix of float16, turned.
__device__ __forceinline__ uint32_t transposed(uint32_t x) {
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

__device__ __forceinline__ float2 pair_at(const __half* p) {
    return __half22float2(*reinterpret_cast<const __half2*>(p));
}

__device__ __forceinline__ float2 pair_at(const __nv_bfloat16* p) {
    return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(p));
}

__device__ __forceinline__ void put(__half* to, float4 x) {
    *reinterpret_cast<Words2*>(to) = Words2{{half_pair(x.x, x.y), half_pair(x.z, x.w)}};
}

__device__ __forceinline__ void put(__nv_bfloat16* to, float4 x) {
    reinterpret_cast<__nv_bfloat162*>(to)[0] = __floats2bfloat162_rn(x.x, x.y);
    reinterpret_cast<__nv_bfloat162*>(to)[1] = __floats2bfloat162_rn(x.z, x.w);
}

__device__ __forceinline__ float4 operator*(float4 x, float y) { return {x.x * y, x.y * y, x.z * y, x.w * y}; }
__device__ __forceinline__ float4 operator+(float4 x, float4 y) {
    return {x.x + y.x, x.y + y.y, x.z + y.z, x.w + y.w};
}
