// Vectors and threads, which all CPU kernels use. They do not know Paddle: Python passes pointers.
//
// The threads are our own, not OpenMP's: a process of Paddle has two OpenMP runtimes, so that a parallel region can belong to one
// and the loop in it to the other, and then every thread does the whole loop.

#pragma once

#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

// Hidden, so that neither this library nor another in the process uses the threads of the other.
namespace kernels __attribute__((visibility("hidden"))) {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float)), aligned(sizeof(float)), may_alias));
typedef int32_t Mask __attribute__((vector_size(kLanes * sizeof(float)), aligned(sizeof(float)), may_alias));
typedef float Four __attribute__((vector_size(16), aligned(sizeof(float)), may_alias));
typedef int32_t FourIndices __attribute__((vector_size(16)));

inline Lanes load(const float* p) { return *reinterpret_cast<const Lanes*>(p); }
inline void store(float* p, Lanes v) { *reinterpret_cast<Lanes*>(p) = v; }
inline Lanes select(Mask mask, Lanes a, Lanes b) { return mask ? a : b; }

inline Four sum_to_four(Lanes v) {
  Four parts[kLanes / 4];
  std::memcpy(parts, &v, sizeof(v));
  for (int width = kLanes / 8; width; width /= 2)
    for (int i = 0; i < width; ++i) parts[i] += parts[i + width];
  return parts[0];
}

inline float sum(Lanes v) {
  Four four = sum_to_four(v);
  return (four[0] + four[2]) + (four[1] + four[3]);
}

// The number of the next piece of work: 0, 1, ...
using Next = std::atomic<int64_t>;

// Threads that share pieces of work with the calling thread. They sleep between calls until the process ends: to start threads
// takes longer than much of the work.
class ThreadPool {
 public:
  // Returns this process's pool of `size`; a forked process starts its own, as threads are not forked.
  static ThreadPool& of(int size) {
    static std::mutex mutex;
    static std::map<int, ThreadPool*> pools;
    static pid_t process = 0;
    std::lock_guard<std::mutex> lock(mutex);
    if (process != getpid()) pools.clear(), process = getpid();
    ThreadPool*& pool = pools[size];
    if (!pool) pool = new ThreadPool(size);  // never deleted: its threads use it until the end
    return *pool;
  }

  // Has every thread call work(next); returns when all are done.
  void run(const std::function<void(Next&)>& work) {
    std::lock_guard<std::mutex> only(in_use_);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      next_ = 0;
      work_ = &work;
      busy_ = helpers_;
      ++rounds_;
    }
    wake_.notify_all();
    work(next_);
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return busy_ == 0; });
  }

 private:
  explicit ThreadPool(int size) {
    try {
      for (; helpers_ < size - 1; ++helpers_) std::thread(&ThreadPool::help, this).detach();
    } catch (const std::system_error&) {
      // The limit of threads is reached: those that were started do all the work.
    }
  }

  void help() {
    int64_t round = 0;
    while (true) {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [&] { return rounds_ > round; });
      round = rounds_;
      lock.unlock();
      (*work_)(next_);
      lock.lock();
      if (--busy_ == 0) done_.notify_one();
    }
  }

  std::mutex in_use_, mutex_;
  std::condition_variable wake_, done_;
  const std::function<void(Next&)>* work_ = nullptr;
  Next next_{0};
  int64_t rounds_ = 0;
  int helpers_ = 0, busy_ = 0;
};

// totals[size] = the sum of parts [count][size], always in the same order.
inline void sum_parts(ThreadPool& pool, const std::vector<float>& parts, int64_t count, int64_t size, float* totals) {
  constexpr int64_t kPiece = 512;
  pool.run([&](Next& next) {
    for (int64_t first; (first = kPiece * next++) < size;) {
      const int64_t length = std::min(kPiece, size - first);
      double sums[kPiece] = {};
      for (int64_t part = 0; part < count; ++part)
        for (int64_t i = 0; i < length; ++i) sums[i] += parts[part * size + first + i];
      std::copy(sums, sums + length, totals + first);
    }
  });
}

}  // namespace kernels
