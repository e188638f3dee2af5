// The checking build: every access of a kernel to global and shared memory comes through here.
//
// A kernel compiled with -fsanitize=thread,bounds calls __tsan_readN and __tsan_writeN before each access. ThreadSanitizer's
// own library would watch the fibers' one real thread and find nothing; these functions know CUDA's threads. Found are
// races (two accesses, one a write, that no barrier orders), accesses outside arrays, misaligned ones, and reads of
// shared memory that its block has not written. Counted are the 32-byte sectors that warps ask global memory for.
#include "memory.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <tuple>
#include <vector>

#include <sys/mman.h>

namespace emulated {
namespace {

// Who last wrote a 4-byte word, and who read it since.
struct Word {
  uint32_t launch;
  uint32_t write_block, write_time;
  uint32_t read_block, read_time, read_lanes;
  uint16_t writer, read_warp;  // a thread's and a warp's number, plus one
  uint8_t write_bytes, read_bytes;
  bool read_by_warps, read_by_blocks;
};

Word* global_words = nullptr;
std::vector<Word> shared_words;
Range shared{};
uint32_t launches = 0, block = 0;
// Time passes at every meeting. An access is before whatever its thread does after a later meeting, and before
// whatever another thread does that has heard of it: heard[w][a][b] is up to when lane a of warp w knows of lane b.
uint32_t now = 1, block_met_at = 0;
uint32_t heard[MOST_THREADS / WARP][WARP][WARP];

bool counting = false;
uint64_t sectors_read = 0, sectors_written = 0;
// The addresses that a warp's lanes touch by one instruction, the n-th time that each comes by.
std::map<std::tuple<const void*, unsigned, uint32_t>, std::vector<uintptr_t>> requests;
std::map<std::pair<const void*, unsigned>, uint32_t> visits;
std::map<const void*, bool> writes;

[[noreturn]] void fault(const char* what, const void* address, unsigned bytes, bool write, bool in_shared) {
  char text[200];
  snprintf(text, sizeof text, "%s: %u-byte %s of %s memory at %p", what, bytes, write ? "write" : "read",
           in_shared ? "shared" : "global", address);
  condemn(text);
}

// Whether what a thread of this block did at a time is before what the running thread does now.
bool before(unsigned thread, uint32_t time) {
  unsigned me = thread_number();
  if (thread == me || time < block_met_at) return true;
  return thread / WARP == me / WARP && time < heard[me / WARP][me % WARP][thread % WARP];
}

bool reads_are_before(const Word& word) {
  if (word.read_by_blocks || word.read_block != block) return false;
  if (word.read_time < block_met_at) return true;
  if (word.read_by_warps) return false;
  for (unsigned l = 0; l < WARP; l++)
    if (word.read_lanes >> l & 1 && !before((word.read_warp - 1u) * WARP + l, word.read_time)) return false;
  return true;
}

// Note an access to some bytes of a word; returns whether it races.
bool races(Word& word, unsigned bytes, bool write) {
  if (word.launch != launches) word = Word{.launch = launches};
  bool race = word.writer && word.write_bytes & bytes &&
              !(word.write_block == block && before(word.writer - 1u, word.write_time));
  unsigned me = thread_number(), warp = me / WARP + 1;
  if (write) {
    race |= word.read_warp && word.read_bytes & bytes && !reads_are_before(word);
    word.write_block = block;
    word.write_time = now;
    word.writer = uint16_t(me + 1);
    word.write_bytes = uint8_t(bytes);
    word.read_warp = 0;
    return race;
  }
  if (!word.read_warp) {
    word.read_lanes = word.read_bytes = 0;
    word.read_by_warps = word.read_by_blocks = false;
  } else if (word.read_block != block) {
    word.read_by_blocks = true;
  } else if (word.read_time < block_met_at) {
    word.read_lanes = 0;
    word.read_by_warps = false;
  } else if (word.read_warp != warp) {
    word.read_by_warps = true;
  }
  word.read_block = block;
  word.read_time = now;
  word.read_warp = uint16_t(warp);
  word.read_lanes |= 1u << me % WARP;
  word.read_bytes |= uint8_t(bytes);
  return race;
}

void access(const void* address, unsigned bytes, bool write, const void* site) {
  if (!running()) return;
  uintptr_t at = reinterpret_cast<uintptr_t>(address);
  bool in_shared = shared.holds(address), in_global = !in_shared && arena().holds(address);
  if (at < 4096) fault("null pointer", address, bytes, write, false);
  if (!in_shared && !in_global) return;  // a thread's own: its stack
  if (at % bytes) fault("misaligned", address, bytes, write, in_shared);
  if (in_global && !within_array(address, bytes)) fault("out of bounds", address, bytes, write, false);
  size_t place = size_t(static_cast<const unsigned char*>(address) - (in_shared ? shared.begin : arena().begin));
  Word* words = in_shared ? shared_words.data() : global_words;
  unsigned covered = bytes >= 4 ? 0xfu : ((1u << bytes) - 1) << at % 4;
  for (size_t w = place / 4; w <= (place + bytes - 1) / 4; w++) {
    Word& word = words[w];
    bool written = word.launch == launches && word.writer && word.write_block == block;
    if (in_shared && !write && !written) fault("never written", address, bytes, write, true);
    if (races(word, covered, write)) fault("race", address, bytes, write, in_shared);
  }
  if (counting && in_global) {
    unsigned me = thread_number();
    uint32_t visit = visits[{site, me}]++;
    writes[site] = write;
    auto& sectors = requests[{site, me / WARP, visit}];
    for (uintptr_t sector = at / 32; sector <= (at + bytes - 1) / 32; sector++) sectors.push_back(sector);
  }
}

}  // namespace

void launch_begins(Range memory) {
  if (!global_words) {
    size_t bytes = ARENA / 4 * sizeof(Word);
    void* fresh = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    global_words = fresh == MAP_FAILED ? nullptr : static_cast<Word*>(fresh);
  }
  shared = memory;
  launches++;
}

void block_begins() {
  block++;
  block_met();  // the threads of the block before are gone
  shared_words.assign(size_t(shared.end - shared.begin) / 4 + 4, Word{});
}

void block_met() { block_met_at = ++now; }

void lanes_met(unsigned warp, unsigned lanes) {
  now++;
  uint32_t joined[WARP] = {};
  for (unsigned l = 0; l < WARP; l++) {
    if (!(lanes >> l & 1)) continue;
    for (unsigned k = 0; k < WARP; k++) joined[k] = std::max(joined[k], heard[warp][l][k]);
    joined[l] = now;
  }
  for (unsigned l = 0; l < WARP; l++)
    if (lanes >> l & 1) std::copy(joined, joined + WARP, heard[warp][l]);
}

void block_ends() {
  for (auto& [key, sectors] : requests) {
    std::sort(sectors.begin(), sectors.end());
    size_t distinct = size_t(std::unique(sectors.begin(), sectors.end()) - sectors.begin());
    (writes[std::get<0>(key)] ? sectors_written : sectors_read) += distinct;
  }
  requests.clear();
  visits.clear();
}

}  // namespace emulated

extern "C" {

#define SITE __builtin_return_address(0)
#define HOOKS(N)                                                                            \
  void __tsan_read##N(void* p) { emulated::access(p, N, false, SITE); }                     \
  void __tsan_write##N(void* p) { emulated::access(p, N, true, SITE); }                     \
  void __tsan_unaligned_read##N(void* p) { emulated::access(p, N, false, SITE); }           \
  void __tsan_unaligned_write##N(void* p) { emulated::access(p, N, true, SITE); }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit(void*) {}
// Wider than any access of a GPU: the compiler has joined what the source keeps apart.
void __tsan_read_range(void* p, size_t bytes) {
  for (size_t k = 0; k < bytes; k += 4) emulated::access(static_cast<char*>(p) + k, 4, false, SITE);
}
void __tsan_write_range(void* p, size_t bytes) {
  for (size_t k = 0; k < bytes; k += 4) emulated::access(static_cast<char*>(p) + k, 4, true, SITE);
}

// -fsanitize=bounds, for arrays whose length the compiler knows.
void __ubsan_handle_out_of_bounds(void* where, void* index) {
  struct Where {
    const char* file;
    unsigned line, column;
  }& place = *static_cast<Where*>(where);
  char text[200];
  snprintf(text, sizeof text, "out of bounds: index %ld of an array at line %u", long(index), place.line);
  if (emulated::running()) emulated::condemn(text);
}

// Start counting, or stop and say how many sectors were read and written since.
void device_count(int on, uint64_t* sectors) {
  emulated::counting = on;
  sectors[0] = emulated::sectors_read;
  sectors[1] = emulated::sectors_written;
  emulated::sectors_read = emulated::sectors_written = 0;
}
}
