// A kernel's source compiled by the host's compiler and run as its threads would run it: the 32 lanes of a warp are
// threads that meet where lanes exchange values, and warps follow each other. CUDA's own headers give the types, and
// their conversions for hosts. It knows what kernels of one warp's scope use: no shared memory, no barriers of blocks.

#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <barrier>
#include <thread>
#include <vector>

#define __launch_bounds__(...)

using std::max;
using std::min;

struct Index {
    int x, y, z;
};

static thread_local Index threadIdx, blockIdx;
static Index blockDim, gridDim;
static std::barrier warp(32);
static float exchanged[32];
static bool voted[32];

static float __shfl_xor_sync(unsigned, float x, int distance) {
    const int lane = threadIdx.x % 32;
    exchanged[lane] = x;
    warp.arrive_and_wait();
    const float found = exchanged[lane ^ distance];
    warp.arrive_and_wait();
    return found;
}

static bool __any_sync(unsigned, bool vote) {
    voted[threadIdx.x % 32] = vote;
    warp.arrive_and_wait();
    bool any = false;
    for (bool each : voted) any |= each;
    warp.arrive_and_wait();
    return any;
}

static float __fmul_rn(float a, float b) { return a * b; }
static float __fadd_rn(float a, float b) { return a + b; }
static float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static float __fdiv_rn(float a, float b) { return a / b; }
static float __frcp_rn(float a) { return 1.0f / a; }

static uint32_t __float_as_uint(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

static float __uint_as_float(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

static uint32_t __byte_perm(uint32_t a, uint32_t b, uint32_t selector) {
    const uint64_t bytes = uint64_t(b) << 32 | a;
    uint32_t found = 0;
    for (int i = 0; i < 4; i++) found |= uint32_t(bytes >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
    return found;
}

template <typename Kernel, typename... Arguments>
static void launch(const int* grid, int threads, Kernel kernel, Arguments... arguments) {
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {threads, 1, 1};
    std::vector<std::thread> lanes;
    for (int lane = 0; lane < 32; lane++)
        lanes.emplace_back([=] {
            for (int z = 0; z < grid[2]; z++)
                for (int y = 0; y < grid[1]; y++)
                    for (int x = 0; x < grid[0]; x++)
                        for (int first = 0; first < threads; first += 32) {
                            blockIdx = {x, y, z};
                            threadIdx = {first + lane, 0, 0};
                            kernel(arguments...);
                        }
        });
    for (auto& lane : lanes) lane.join();
}
