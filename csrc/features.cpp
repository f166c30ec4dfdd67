// Which kernel variants this CPU can run, and the plain read loop that memory speed is measured with.
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>

#include "kernels.h"
#include "stream.h"
#include "team.h"

namespace paceline {

namespace {

// Whether the CPU has integer AMX and the system lets this process use it; asking is what turns it on.
bool can_use_amx() {
  constexpr unsigned kTiles = 1u << 24, kInt8 = 1u << 25;     // CPUID leaf 7, EDX
  constexpr unsigned kTileState = 3u << 17;                   // XCR0: tile configuration and data
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & (kTiles | kInt8)) != (kTiles | kInt8)) return false;
  unsigned low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  if ((low & kTileState) != kTileState) return false;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

}  // namespace

std::vector<const Kernels*> available_kernels() {
  std::vector<const Kernels*> out;
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vnni");
  const bool bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
  static const bool amx = bf16 && can_use_amx();
  if (amx) out.push_back(&kernels_amx());
  if (bf16) out.push_back(&kernels_avx512_bf16());
  if (avx512) out.push_back(&kernels_avx512());
  if (avx2) out.push_back(&kernels_avx2());
  return out;
}

std::vector<const Kernels*> test_kernels() {
  for (const Kernels* k : available_kernels())
    if (k == &kernels_avx512_bf16()) return {&kernels_amx_emulated()};
  return {};
}

namespace {

__attribute__((target("avx2"))) uint64_t read_all(const uint8_t* data, size_t bytes) {
  __m256i sums[4] = {};
  for (size_t i = 0; i + 128 <= bytes; i += 128)
    for (int j = 0; j < 4; ++j)
      sums[j] = _mm256_add_epi64(sums[j], _mm256_load_si256(reinterpret_cast<const __m256i*>(data + i + 32 * j)));
  const __m256i all = _mm256_add_epi64(_mm256_add_epi64(sums[0], sums[1]), _mm256_add_epi64(sums[2], sums[3]));
  alignas(32) uint64_t parts[4];
  _mm256_store_si256(reinterpret_cast<__m256i*>(parts), all);
  return parts[0] + parts[1] + parts[2] + parts[3];
}

class ReadStages final : public Stages {
 public:
  ReadStages(const uint8_t* data, size_t bytes) : data_(data), pieces_(static_cast<int>(bytes / kPiece)) {}
  int count() const override { return 1; }
  int chunks(int) override { return std::min(pieces_, kMaxChunks); }
  void run(int, int chunk, int) override {
    const int n = chunks(0);
    const size_t all = static_cast<size_t>(pieces_), first = all * chunk / n, last = all * (chunk + 1) / n;
    sum_ += read_all(data_ + first * kPiece, (last - first) * kPiece);
  }
  uint64_t sum() const { return sum_; }

 private:
  static constexpr size_t kPiece = size_t{64} << 10;
  const uint8_t* data_;
  int pieces_;
  std::atomic<uint64_t> sum_{0};
};

}  // namespace

StreamBuffer::StreamBuffer(size_t bytes) : bytes_(bytes / (64 << 10) * (64 << 10)), data_(arena_.take(bytes_)) {
  for (size_t i = 0; i < bytes_; i += 8) data_[i] = static_cast<uint8_t>(i >> 12);
}

uint64_t StreamBuffer::read(Team& team) {
  ReadStages stages(data_, bytes_);
  team.run(stages);
  team.settle();  // the stages are about to go
  return stages.sum();
}

}  // namespace paceline
