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

uint64_t sequence_of(uint64_t ticket) { return ticket >> (2 * kIndexBits); }
int chunks_of(uint64_t ticket) { return static_cast<int>((ticket >> kIndexBits) & kIndexMask); }
int next_of(uint64_t ticket) { return static_cast<int>(ticket & kIndexMask); }
uint64_t make_ticket(uint64_t sequence, int chunks) {
  return (sequence << (2 * kIndexBits)) | (static_cast<uint64_t>(chunks) << kIndexBits);
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

Team::Team(int threads) {
  for (int t = 1; t < threads; ++t) {
    workers_.emplace_back([this, t] {
      while (!stop_.load(std::memory_order_relaxed)) work(t, UINT64_MAX);
    });
  }
}

Team::~Team() {
  stop_.store(true);
  publish(sequence_of(ticket_.load()) + 1, 0);
  wake();
  for (auto& worker : workers_) worker.join();
}

void Team::wake() {
  epoch_.fetch_add(1);
  futex(&epoch_, FUTEX_WAKE_PRIVATE, INT_MAX);
}

void Team::publish(uint64_t sequence, int chunks) {
  ticket_.store(make_ticket(sequence, chunks), std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) > 0) wake();
}

// Called by the one thread that finished the last chunk of the stage before `sequence`: nobody else touches the state.
void Team::open_next(uint64_t sequence) {
  int chunks = 0;
  while (sequence < end_ && (chunks = stages_->chunks(static_cast<int>(sequence - base_))) == 0) ++sequence;
  done_.store(0, std::memory_order_relaxed);
  publish(sequence, sequence < end_ ? chunks : 0);
}

void Team::wait(uint64_t seen) {
  for (int i = 0; i < kSpins; ++i) {
    if (ticket_.load(std::memory_order_acquire) != seen) return;
    pause();
  }
  const uint32_t epoch = epoch_.load();
  sleepers_.fetch_add(1);
  if (ticket_.load() == seen && !stop_.load()) futex(&epoch_, FUTEX_WAIT_PRIVATE, epoch);
  sleepers_.fetch_sub(1);
}

// Claims and runs chunks until the sequence number reaches `finish` (a worker's never does: it returns to look at stop_).
void Team::work(int thread, uint64_t finish) {
  uint64_t ticket = ticket_.load(std::memory_order_acquire);
  while (sequence_of(ticket) < finish) {
    const int chunk = next_of(ticket), chunks = chunks_of(ticket);
    if (chunk >= chunks) {
      wait(ticket);
      if (finish == UINT64_MAX) return;
      ticket = ticket_.load(std::memory_order_acquire);
      continue;
    }
    if (!ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
    const uint64_t sequence = sequence_of(ticket);
    stages_->run(static_cast<int>(sequence - base_), chunk, thread);
    if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 == chunks) open_next(sequence + 1);
    ticket = ticket_.load(std::memory_order_acquire);
  }
}

void Team::run(Stages& stages) {
  stages_ = &stages;
  base_ = sequence_of(ticket_.load()) + 1;
  end_ = base_ + static_cast<uint64_t>(stages.count());
  open_next(base_);
  work(0, end_);
}

}  // namespace paceline
