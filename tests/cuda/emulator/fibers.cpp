// CUDA threads as fibers: who runs next, and who has met whom.
#include "runtime.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <sys/mman.h>

#if !defined(__x86_64__)
#error "the switch between fibers is written for x86-64"
#endif

// Save what a call must preserve on this stack, go on where the other one was left.
extern "C" void emulated_switch(void** save, void* resume);
asm(R"(
.text
.type emulated_switch, @function
emulated_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size emulated_switch, .-emulated_switch
)");

namespace emulated {
namespace {

enum State { READY, AT_BARRIER, AT_WARP, FINISHED };
enum Meeting { BARRIER, SHUFFLE, VOTE };

struct Fiber {
  void* stack_pointer;
  State state;
  Index index;
  unsigned number, lane, warp;
  // What a waiting thread waits for, what it brought and what it was given.
  int line;
  Meeting meeting;
  unsigned mask, source;
  uint64_t brought, given;
};

constexpr size_t STACK = 64 << 10;
enum Order { FORWARD, REVERSE, RANDOM };

Fiber fibers[MOST_THREADS];
Fiber host;
Fiber* current = nullptr;
char* stacks = nullptr;
unsigned count = 0, alive = 0, at_barrier = 0;
Index now_block, of_block, of_grid;
Kernel body;
void** body_arguments;
char reason[512];
bool failed = false, checking = false;
Order order = FORWARD;
uint64_t random_state = 1;

unsigned random_below(unsigned bound) {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return unsigned(random_state >> 33) % bound;
}

void go_to(Fiber* next) {
  Fiber* me = current;
  current = next;
  emulated_switch(&me->stack_pointer, next->stack_pointer);
}

[[noreturn]] void deadlock() {
  unsigned in_block = 0, in_warp = 0;
  int line = 0;
  for (unsigned k = 0; k < count; k++) {
    in_block += fibers[k].state == AT_BARRIER;
    in_warp += fibers[k].state == AT_WARP;
    if (fibers[k].state == AT_WARP || (fibers[k].state == AT_BARRIER && !line)) line = fibers[k].line;
  }
  char text[200];
  snprintf(text, sizeof text, "deadlock: %u threads wait at a block's barrier, %u for their warp (line %d), %u have left",
           in_block, in_warp, line, count - alive);
  condemn(text);
}

// The next thread that can go on, in the chosen order.
void give_way() {
  if (alive == 0) return go_to(&host);
  unsigned k = order == RANDOM ? random_below(count) : current->number;
  for (unsigned tried = 0; tried < count; tried++) {
    if (order == REVERSE)
      k = k ? k - 1 : count - 1;
    else
      k = k + 1 < count ? k + 1 : 0;
    if (fibers[k].state == READY) return go_to(&fibers[k]);
  }
  deadlock();
}

// Let the block go on if all its threads that have not left are at the barrier.
void try_barrier() {
  if (alive == 0 || at_barrier != alive) return;
  int line = 0;
  for (unsigned k = 0; k < count; k++) {
    if (fibers[k].state != AT_BARRIER) continue;
    if (line && fibers[k].line != line) condemn("threads of a block wait at different barriers");
    line = fibers[k].line;
  }
  for (unsigned k = 0; k < count; k++)
    if (fibers[k].state == AT_BARRIER) fibers[k].state = READY;
  at_barrier = 0;
  if (checking) block_met();
}

// Let the lanes that a waiting thread named go on, if all of them that have not left wait for the same.
bool try_warp(Fiber& one) {
  Fiber* warp = fibers + one.warp * WARP;
  unsigned lanes = count - one.warp * WARP < WARP ? count - one.warp * WARP : WARP;
  unsigned mask = one.mask;
  if (lanes < WARP) {
    unsigned there = (1u << lanes) - 1;
    if (mask != ~0u && (mask & ~there)) condemn("a mask names lanes that the block does not have");
    mask &= there;
  }
  unsigned present = 0, votes = 0;
  for (unsigned l = 0; l < lanes; l++) {
    if (!(mask >> l & 1) || warp[l].state == FINISHED) continue;
    if (warp[l].state != AT_WARP || warp[l].mask != one.mask || warp[l].meeting != one.meeting || warp[l].line != one.line)
      return false;
    present |= 1u << l;
    if (warp[l].brought) votes |= 1u << l;
  }
  for (unsigned l = 0; l < lanes; l++) {
    if (!(present >> l & 1)) continue;
    if (one.meeting == SHUFFLE) {
      if (warp[l].source >= lanes || !(present >> warp[l].source & 1))
        condemn("a shuffle reads a lane that is not in its mask, or has left");
      warp[l].given = warp[warp[l].source].brought;
    } else {
      warp[l].given = votes;
    }
  }
  for (unsigned l = 0; l < lanes; l++)
    if (present >> l & 1) warp[l].state = READY;
  if (checking) lanes_met(one.warp, present);
  return true;
}

uint64_t meet_warp(Meeting meeting, int line, unsigned mask, uint64_t value, unsigned source) {
  Fiber& me = *current;
  if (!(mask >> me.lane & 1)) condemn("a lane is not in its own mask");
  me.state = AT_WARP;
  me.meeting = meeting;
  me.line = line;
  me.mask = mask;
  me.brought = value;
  me.source = source;
  if (!try_warp(me)) give_way();
  return me.given;
}

void finish() {
  current->state = FINISHED;
  alive--;
  try_barrier();
  unsigned first = current->warp * WARP;
  for (unsigned k = first; k < first + WARP && k < count; k++)
    if (fibers[k].state == AT_WARP) try_warp(fibers[k]);
  give_way();
}

void thread_main() {
  for (;;) {  // a fiber serves a thread of every block
    body(body_arguments);
    finish();
  }
}

// A stack on which emulated_switch finds six registers to restore and thread_main to return to.
void prepare(Fiber& fiber, unsigned k) {
  void** top = reinterpret_cast<void**>(stacks + (k + 1) * STACK - 64);
  *--top = nullptr;  // so that the stack is 16-byte aligned where a called function expects it
  *--top = reinterpret_cast<void*>(&thread_main);
  for (int registers = 0; registers < 6; registers++) *--top = nullptr;
  fiber.stack_pointer = top;
}

void prepare_all() {
  if (!stacks) {
    void* memory = mmap(nullptr, MOST_THREADS * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) abort();
    stacks = static_cast<char*>(memory);
  }
  for (unsigned k = 0; k < MOST_THREADS; k++) prepare(fibers[k], k);
}

void run_block(Range shared) {
  // Shared memory is undefined when a block begins: NaN shows whoever reads it first.
  memset(const_cast<unsigned char*>(shared.begin), 0xff, size_t(shared.end - shared.begin));
  for (unsigned k = 0; k < count; k++) {
    Fiber& fiber = fibers[k];
    fiber.state = READY;
    fiber.number = k;
    fiber.lane = k % WARP;
    fiber.warp = k / WARP;
    fiber.index = {k % of_block.x, k / of_block.x % of_block.y, k / of_block.x / of_block.y};
  }
  alive = count;
  at_barrier = 0;
  current = &host;
  if (checking) block_begins();
  go_to(&fibers[order == FORWARD ? 0 : order == REVERSE ? count - 1 : random_below(count)]);
  if (checking) block_ends();
}

}  // namespace

bool running() { return current && current != &host && !failed; }
unsigned thread_number() { return current->number; }

[[noreturn]] void condemn(const char* why) {
  if (!failed)
    snprintf(reason, sizeof reason, "%s [block %u,%u,%u thread %u,%u,%u]", why, now_block.x, now_block.y, now_block.z,
             current->index.x, current->index.y, current->index.z);
  failed = true;
  go_to(&host);
  abort();  // nobody comes back here
}

Index thread_index() { return current->index; }
Index block_index() { return now_block; }
Index block_size() { return of_block; }
Index grid_size() { return of_grid; }
unsigned lane() { return current->lane; }

void block_barrier(int line) {
  current->state = AT_BARRIER;
  current->line = line;
  at_barrier++;
  Fiber* me = current;
  try_barrier();
  if (me->state != READY) give_way();
}

void warp_barrier(int line, unsigned mask) { meet_warp(BARRIER, line, mask, 0, 0); }
uint64_t shuffle(int line, unsigned mask, uint64_t value, unsigned source) {
  return meet_warp(SHUFFLE, line, mask, value, source);
}
unsigned ballot(int line, unsigned mask, bool predicate) { return unsigned(meet_warp(VOTE, line, mask, predicate, 0)); }

int launch(Kernel kernel, const unsigned grid[3], const unsigned block[3], void** arguments, Range shared, bool checked) {
  of_grid = {grid[0], grid[1], grid[2]};
  of_block = {block[0], block[1], block[2]};
  count = of_block.x * of_block.y * of_block.z;
  body = kernel;
  body_arguments = arguments;
  checking = checked;
  if (!stacks || failed) prepare_all();  // a condemned launch leaves its threads where they stood
  failed = false;
  if (checking) launch_begins(shared);
  uint64_t blocks = uint64_t(of_grid.x) * of_grid.y * of_grid.z;
  for (uint64_t k = 0; k < blocks && !failed; k++) {
    uint64_t b = order == REVERSE ? blocks - 1 - k : k;
    now_block = {unsigned(b % of_grid.x), unsigned(b / of_grid.x % of_grid.y), unsigned(b / of_grid.x / of_grid.y)};
    run_block(shared);
  }
  current = nullptr;
  return failed;
}

}  // namespace emulated

extern "C" {

const char* device_error() { return emulated::reason; }

// 0, 1 or 2: the threads of a block, and the blocks, forwards, backwards, or threads at random.
void device_order(int order, uint64_t seed) {
  emulated::order = emulated::Order(order);
  emulated::random_state = seed * 2 + 1;
}
}
