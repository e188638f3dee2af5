#include "memory.h"

#include <cstring>
#include <map>
#include <vector>

#include <sys/mman.h>

namespace emulated {
namespace {

unsigned char* base = nullptr;
size_t used = ARENA / 2;                        // arrays lie in the middle, with room on both sides to stray into
uint16_t* valid = nullptr;                      // bytes of each granule that belong to an array
std::map<size_t, std::vector<size_t>> released;  // places by their size in granules

void* reserve(size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return memory == MAP_FAILED ? nullptr : memory;
}

}  // namespace

Range arena() { return {base, base + ARENA}; }

bool within_array(const void* address, unsigned bytes) {
  size_t place = size_t(static_cast<const unsigned char*>(address) - base);
  return place % GRANULE + bytes <= valid[place / GRANULE];
}

}  // namespace emulated

extern "C" {

// Memory of an array; its bytes are all ones, NaN for a float, and a granule after it belongs to nobody.
void* device_allocate(size_t bytes) {
  using namespace emulated;
  if (!base) {
    base = static_cast<unsigned char*>(reserve(ARENA));
    valid = static_cast<uint16_t*>(reserve(ARENA / GRANULE * sizeof *valid));
    if (!base || !valid) return nullptr;
  }
  size_t granules = (bytes + GRANULE - 1) / GRANULE + 1, place;
  if (auto& places = released[granules]; !places.empty()) {
    place = places.back();
    places.pop_back();
  } else {
    if (used + granules * GRANULE > ARENA) return nullptr;
    place = used;
    used += granules * GRANULE;
  }
  for (size_t k = 0, left = bytes; left; k++) {
    size_t here = left < GRANULE ? left : GRANULE;
    valid[place / GRANULE + k] = uint16_t(here);
    left -= here;
  }
  memset(base + place, 0xff, bytes);
  return base + place;
}

void device_release(void* memory, size_t bytes) {
  using namespace emulated;
  size_t granules = (bytes + GRANULE - 1) / GRANULE + 1, place = size_t(static_cast<unsigned char*>(memory) - base);
  memset(valid + place / GRANULE, 0, granules * sizeof *valid);
  released[granules].push_back(place);
}
}
