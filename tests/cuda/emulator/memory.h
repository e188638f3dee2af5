// Device memory: one wide stretch of addresses, most of them never used, so that a stray address falls into it.
#pragma once

#include "runtime.h"

namespace emulated {

constexpr size_t ARENA = size_t(16) << 30;  // reserved, not used: a page costs memory once it is written
constexpr size_t GRANULE = 256;             // what CuPy aligns arrays to, too

Range arena();

// Whether these bytes lie in the arena and within one array.
bool within_array(const void* address, unsigned bytes);

}  // namespace emulated
