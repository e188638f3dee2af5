// The words of CUDA C that the kernels use, for g++. What is not here, they do not use.
#pragma once

#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>

#include "runtime.h"

#define __global__ EMULATED_KERNEL
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("emulated_shared")))

struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline double2 make_double2(double x, double y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

static inline float __uint_as_float(unsigned bits) {
  float number;
  memcpy(&number, &bits, sizeof number);
  return number;
}
static inline unsigned __float_as_uint(float number) {
  unsigned bits;
  memcpy(&bits, &number, sizeof bits);
  return bits;
}

template <class T>
static inline void __stwb(T* p, T value) {
  *p = value;
}

// C has these for double alone, and without a word would do a float's work in it.
using std::exp;
using std::log;
using std::sqrt;

#define threadIdx (emulated::thread_index())
#define blockIdx (emulated::block_index())
#define blockDim (emulated::block_size())
#define gridDim (emulated::grid_size())

#define __syncthreads() emulated::block_barrier(__LINE__)
#define __syncwarp(...) emulated_syncwarp(__LINE__ __VA_OPT__(, ) __VA_ARGS__)
#define __shfl_sync(...) emulated_shuffle(__LINE__, __VA_ARGS__)
#define __shfl_xor_sync(...) emulated_shuffle_xor(__LINE__, __VA_ARGS__)
#define __ballot_sync(mask, predicate) emulated::ballot(__LINE__, mask, predicate)

static inline void emulated_syncwarp(int line, unsigned mask = 0xffffffffu) { emulated::warp_barrier(line, mask); }

template <class T>
static inline T emulated_shuffle(int line, unsigned mask, T value, int source) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  bits = emulated::shuffle(line, mask, bits, unsigned(source) % emulated::WARP);
  memcpy(&value, &bits, sizeof value);
  return value;
}

template <class T>
static inline T emulated_shuffle_xor(int line, unsigned mask, T value, int bit) {
  return emulated_shuffle(line, mask, value, int(emulated::lane()) ^ bit);
}

// CUDA has these for every pair of one arithmetic type.
template <class T>
static inline T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
static inline T max(T a, T b) {
  return a < b ? b : a;
}

// ---- from a kernel to what Python calls, and to its parameters' types as NumPy spells them

extern "C" unsigned char __start_emulated_shared[] __attribute__((weak, visibility("hidden")));
extern "C" unsigned char __stop_emulated_shared[] __attribute__((weak, visibility("hidden")));

namespace emulated {

template <auto kernel>
struct Entry;

template <class... P, void (*kernel)(P...)>
struct Entry<kernel> {
  template <size_t... k>
  static void unpack(void** arguments, std::index_sequence<k...>) {
    kernel(*static_cast<std::remove_cv_t<P>*>(arguments[k])...);
  }
  static void call(void** arguments) { unpack(arguments, std::index_sequence_for<P...>{}); }

  static int run(const unsigned* grid, const unsigned* block, void** arguments) {
    return launch(call, grid, block, arguments, {__start_emulated_shared, __stop_emulated_shared}, EMULATED_CHECKED);
  }

  // "*f4" is a pointer to float32, "i8" an int64.
  template <class T>
  static char* spell(char* out) {
    if constexpr (std::is_pointer_v<T>) {
      *out++ = '*';
      return spell<std::remove_cv_t<std::remove_pointer_t<T>>>(out);
    } else {
      static_assert(std::is_arithmetic_v<T>, "a kernel takes numbers and pointers to numbers");
      *out++ = std::is_floating_point_v<T> ? 'f' : std::is_unsigned_v<T> ? 'u' : 'i';
      *out++ = char('0' + sizeof(T));
      *out++ = ',';
      return out;
    }
  }
  static const char* parameters() {
    static char text[8 * sizeof...(P) + 1];
    char* out = text;
    ((out = spell<std::remove_cv_t<P>>(out)), ...);
    *out = 0;
    return text;
  }
};

}  // namespace emulated
