// A small thread team that runs the stages of a program.
//
// A stage is a number of chunks. Each thread has a contiguous share of them, so that it streams through memory, claims
// its chunks one by one, and takes chunks from the end of another's share when its own is empty. The stage is over when
// all chunks are done, not when all threads have arrived: a thread that lost its time slice delays the others by the
// chunk it holds at most, and one that sleeps delays nobody. Waiting threads spin for some microseconds, then sleep on
// a futex, so the team never burns time slices that the HTTP server or another process could use.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace paceline {

// What the team executes. chunks() is called once a stage, by one thread, after the previous stage is over.
class Stages {
 public:
  virtual ~Stages() = default;
  virtual int count() const = 0;
  virtual int chunks(int stage) = 0;  // 0: nothing to do; at most kMaxChunks
  virtual void run(int stage, int chunk, int thread) = 0;
  virtual void ahead(int /*stage*/, int /*thread*/) {}  // the thread will wait for others: time to prefetch
};

constexpr int kMaxChunks = 4095;

class Team {
 public:
  explicit Team(int threads);  // the caller counts as one: threads - 1 are started
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int size() const { return static_cast<int>(shares_.size()); }
  void run(Stages& stages);  // not reentrant
  void wake();               // a hint that run() will follow shortly
  void settle();             // returns when no thread uses any Stages any more

 private:
  struct alignas(64) Share {
    std::atomic<uint64_t> word{0};  // [sequence: 40 bits | next: 12 | end: 12]
    std::atomic<bool> ahead{false};  // the thread may be inside Stages::ahead
  };

  void work(int thread, uint64_t finish);
  bool claim(Share& share, uint64_t sequence, bool from_end, int* chunk);
  int run_chunks(int thread, uint64_t sequence);
  void open_next(uint64_t sequence);
  void wait(uint64_t seen);

  // The sequence number names one stage of one run. Shares of an older stage can never be claimed by mistake: a claim
  // compares the whole word, and whoever holds a claim keeps its stage open.
  alignas(64) std::atomic<uint64_t> sequence_{0};
  alignas(64) std::atomic<int> done_{0};
  alignas(64) std::atomic<uint32_t> epoch_{0};
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
  std::vector<Share> shares_;
  std::atomic<int> chunks_{0};  // of the open stage
  Stages* stages_ = nullptr;  // valid while a claimed chunk is not done
  uint64_t base_ = 0;         // sequence number of the run's first stage
  uint64_t end_ = 0;          // and of the idle state after its last
  std::vector<std::thread> workers_;
};

}  // namespace paceline
