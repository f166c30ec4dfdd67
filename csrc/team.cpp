#include "team.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace paceline {
namespace {

constexpr int kIndexBits = 12;
constexpr uint64_t kIndexMask = (1u << kIndexBits) - 1;
constexpr int kSpins = 600;  // about 10-20 microseconds

uint64_t make_word(uint64_t sequence, int next, int end) {
  return (sequence << (2 * kIndexBits)) | (static_cast<uint64_t>(next) << kIndexBits) | static_cast<uint64_t>(end);
}

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

void futex(std::atomic<uint32_t>* word, int op, uint32_t value) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(word), op, value, nullptr, nullptr, 0);
}

}  // namespace

Team::Team(int threads) : shares_(threads) {
  for (int t = 1; t < threads; ++t) {
    workers_.emplace_back([this, t] {
      while (!stop_.load(std::memory_order_relaxed)) work(t, UINT64_MAX);
    });
  }
}

Team::~Team() {
  stop_.store(true);
  sequence_.fetch_add(1);
  wake();
  for (auto& worker : workers_) worker.join();
}

void Team::wake() {
  epoch_.fetch_add(1);
  futex(&epoch_, FUTEX_WAKE_PRIVATE, INT_MAX);
}

// Called by the one thread that finished the last chunk of the stage before `sequence`: nobody else touches the state.
void Team::open_next(uint64_t sequence) {
  int chunks = 0;
  while (sequence < end_ && (chunks = stages_->chunks(static_cast<int>(sequence - base_))) == 0) ++sequence;
  if (sequence >= end_) chunks = 0;
  done_.store(0, std::memory_order_relaxed);
  chunks_.store(chunks, std::memory_order_relaxed);
  const int threads = size();
  for (int t = 0; t < threads; ++t)
    shares_[t].word.store(make_word(sequence, chunks * t / threads, chunks * (t + 1) / threads),
                          std::memory_order_release);
  sequence_.store(sequence, std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) > 0) wake();
}

void Team::wait(uint64_t seen) {
  for (int i = 0; i < kSpins; ++i) {
    if (sequence_.load(std::memory_order_acquire) != seen) return;
    pause();
  }
  const uint32_t epoch = epoch_.load();
  sleepers_.fetch_add(1);
  if (sequence_.load() == seen && !stop_.load()) futex(&epoch_, FUTEX_WAIT_PRIVATE, epoch);
  sleepers_.fetch_sub(1);
}

void Team::settle() {
  for (Share& share : shares_)
    while (share.ahead.load(std::memory_order_acquire)) std::this_thread::yield();
}

bool Team::claim(Share& share, uint64_t sequence, bool from_end, int* chunk) {
  uint64_t word = share.word.load(std::memory_order_acquire);
  for (;;) {
    const int next = static_cast<int>((word >> kIndexBits) & kIndexMask), end = static_cast<int>(word & kIndexMask);
    if (word >> (2 * kIndexBits) != sequence || next >= end) return false;
    const uint64_t rest = from_end ? make_word(sequence, next, end - 1) : make_word(sequence, next + 1, end);
    if (share.word.compare_exchange_weak(word, rest, std::memory_order_acq_rel, std::memory_order_acquire)) {
      *chunk = from_end ? end - 1 : next;
      return true;
    }
  }
}

// Runs what it can claim of one stage; gives the number of chunks run. Until they are reported the stage stays open.
int Team::run_chunks(int thread, uint64_t sequence) {
  int chunk, count = 0;
  const int threads = size();
  for (; claim(shares_[thread], sequence, false, &chunk); ++count)
    stages_->run(static_cast<int>(sequence - base_), chunk, thread);
  for (int other = 1; other < threads; ++other)
    for (; claim(shares_[(thread + other) % threads], sequence, true, &chunk); ++count)
      stages_->run(static_cast<int>(sequence - base_), chunk, thread);
  return count;
}

// Works until the sequence number reaches `finish` (a worker's never does: it returns to look at stop_).
void Team::work(int thread, uint64_t finish) {
  uint64_t sequence = sequence_.load(std::memory_order_acquire);
  while (sequence < finish) {
    const int count = run_chunks(thread, sequence);
    if (count > 0) {
      // As long as this thread's chunks are not reported, the stage is open and its data valid.
      const int stage = static_cast<int>(sequence - base_), all = chunks_.load(std::memory_order_relaxed);
      Stages* stages = stages_;
      shares_[thread].ahead.store(true, std::memory_order_relaxed);
      if (done_.fetch_add(count, std::memory_order_acq_rel) + count == all) open_next(sequence + 1);
      else stages->ahead(stage, thread);
      shares_[thread].ahead.store(false, std::memory_order_release);
    }
    if (sequence_.load(std::memory_order_acquire) == sequence) {
      wait(sequence);
      if (finish == UINT64_MAX) return;
    }
    sequence = sequence_.load(std::memory_order_acquire);
  }
}

void Team::run(Stages& stages) {
  stages_ = &stages;
  base_ = sequence_.load() + 1;
  end_ = base_ + static_cast<uint64_t>(stages.count());
  open_next(base_);
  work(0, end_);
}

}  // namespace paceline
