// The emulated device, as the kernels, its two halves and Python see it.
//
// Blocks of threads run one after another on one processor core. Within a block every CUDA thread is a fiber, which
// runs until it meets others (at a barrier, a shuffle, a vote) or ends. Nothing moves in lockstep, so that what a
// kernel does not synchronise goes wrong in one order of the threads or another.
#pragma once

#include <cstddef>
#include <cstdint>

namespace emulated {

struct Index {
  unsigned x, y, z;
};

// ---- what cuda.h turns CUDA's words into

Index thread_index();
Index block_index();
Index block_size();
Index grid_size();
unsigned lane();
void block_barrier(int line);
void warp_barrier(int line, unsigned mask);
uint64_t shuffle(int line, unsigned mask, uint64_t value, unsigned source_lane);
unsigned ballot(int line, unsigned mask, bool predicate);

// What lies between two addresses.
struct Range {
  const unsigned char *begin, *end;
  bool holds(const void* p) const { return p >= begin && p < end; }
};

// Run a kernel; its arguments are pointers to their values. Returns 0, or 1 with the reason in device_error().
using Kernel = void (*)(void** arguments);
int launch(Kernel kernel, const unsigned grid[3], const unsigned block[3], void** arguments, Range shared, bool checked);

// ---- fibers.cpp, for the checker

constexpr unsigned WARP = 32, MOST_THREADS = 1024;

bool running();               // in a kernel, and not yet condemned
unsigned thread_number();     // of the thread that runs, in its block
[[noreturn]] void condemn(const char* reason);  // end the launch: a kernel did what it must not

// ---- check.cpp, for the fibers of a checked launch

void launch_begins(Range shared);
void block_begins();
void block_ends();
void block_met();                                // every thread of the block is past a barrier
void lanes_met(unsigned warp, unsigned lanes);   // these lanes of a warp have met

}  // namespace emulated
