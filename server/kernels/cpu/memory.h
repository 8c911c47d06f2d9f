// Memory for networks, which goes back to the system when it is freed, because it does not use malloc.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <mutex>
#include <new>
#include <utility>

namespace {

// For weights; zeros at first.
struct Pages {
  float* data = nullptr;
  size_t size = 0;  // bytes
  Pages() = default;
  Pages(const Pages&) = delete;
  void take(size_t floats) {
    size = (floats * sizeof(float) + 4095) / 4096 * 4096;
    void* found = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (found == MAP_FAILED) throw std::bad_alloc();
    data = static_cast<float*>(found);
  }
  ~Pages() {
    if (data) munmap(data, size);
  }
};

// ---- blocks for a run; small ones are kept for the next run ----

constexpr size_t PAGE = size_t{2} << 20;

constexpr size_t KEPT = size_t{64} << 20;  // larger blocks take so long to fill that allocating again does not matter

struct Block {
  void* data = nullptr;
  size_t size = 0;
};

std::mutex idle_lock;
Block idle[2];

inline Block take(size_t size) {
  size = (size + PAGE - 1) / PAGE * PAGE;
  {
    const std::lock_guard<std::mutex> guard(idle_lock);
    Block* best = nullptr;
    for (Block& b : idle)
      if (b.data && b.size >= size && (!best || b.size < best->size)) best = &b;
    if (best) {
      const Block found = *best;
      *best = Block{};
      return found;
    }
  }
  // Large pages must begin at multiples of their size: allocate more, and free both ends.
  void* data = mmap(nullptr, size + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) return Block{};
  char *begin = static_cast<char*>(data), *start = begin + (PAGE - reinterpret_cast<size_t>(data) % PAGE) % PAGE;
  if (start > begin) munmap(begin, start - begin);
  munmap(start + size, begin + PAGE - start);
  madvise(start, size, MADV_HUGEPAGE);  // optional: small pages work too
  return Block{start, size};
}

inline void give(Block block) {
  if (block.size <= KEPT) {
    const std::lock_guard<std::mutex> guard(idle_lock);
    Block* smallest = &idle[0];
    for (Block& b : idle)
      if (b.size < smallest->size) smallest = &b;
    if (block.size > smallest->size) std::swap(*smallest, block);
  }
  if (block.data) munmap(block.data, block.size);
}

struct Held : Block {
  Held() = default;
  Held(const Held&) = delete;
  ~Held() {
    if (data) give(*this);
  }
};

}  // namespace
