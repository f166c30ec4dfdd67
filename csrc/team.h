// A small thread team that runs the stages of a program.
//
// A stage is a number of chunks. Threads claim chunks one by one; the stage is over when all its chunks are done, not
// when all threads have arrived: a thread that lost its time slice delays the others by the chunk it holds at most, and
// one that sleeps delays nobody. Waiting threads spin for some microseconds, then sleep on a futex, so the team never
// burns time slices that the HTTP server or another process could use.
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
};

constexpr int kMaxChunks = 4095;

class Team {
 public:
  explicit Team(int threads);  // the caller counts as one: threads - 1 are started
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }
  void run(Stages& stages);  // not reentrant
  void wake();               // a hint that run() will follow shortly

 private:
  struct Ticket;
  void work(int thread, uint64_t finish);
  void open_next(uint64_t sequence);
  void publish(uint64_t sequence, int chunks);
  void wait(uint64_t seen);

  // [sequence: 40 bits | chunks: 12 | next chunk: 12]; the sequence number names one stage of one run.
  alignas(64) std::atomic<uint64_t> ticket_{0};
  alignas(64) std::atomic<int> done_{0};
  alignas(64) std::atomic<uint32_t> epoch_{0};
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
  Stages* stages_ = nullptr;  // valid while a claimed chunk is not done
  uint64_t base_ = 0;         // sequence number of the run's first stage
  uint64_t end_ = 0;          // and of the idle state after its last
  std::vector<std::thread> workers_;
};

}  // namespace paceline
