// The passes of a margin softmax over a block of classes and its centres, for training on a CPU in float32.
//
// Threads share classes, and sums over classes are added in a fixed order: results do not depend on the number of threads.

#include <cmath>

#include "kernels.h"

namespace {

using namespace kernels;

constexpr int64_t kPiece = 64;  // classes that a thread takes at a time, and whose sums are taken together

// e to the power of x, for x below 88, to two units in the last place: 2^k * e^r with |r| <= ln(2) / 2. NaN stays NaN.
inline Lanes exponential(Lanes x) {
  const Lanes lowest = Lanes{} - 87.f;  // whose exponential is about the least number that float32 holds in full
  const Lanes bounded = select(x < lowest, lowest, x);
  const float magic = 12582912.f;  // 1.5 * 2^23: to add it rounds to whole numbers
  const Lanes k = (bounded * 1.44269504f + magic) - magic;
  const Lanes r = (bounded - k * 0.693359375f) + k * 2.12194440e-4f;  // ln(2) in two parts, the first exact
  Lanes sum = Lanes{} + 1.f / 5040;
  for (float factor : {1.f / 720, 1.f / 120, 1.f / 24, 1.f / 6, 0.5f, 1.f, 1.f}) sum = sum * r + factor;
  Mask power = (__builtin_convertvector(k, Mask) + 127) << 23;
  Lanes scale;
  std::memcpy(&scale, &power, sizeof(scale));
  return select(x < lowest, Lanes{}, sum * scale);
}

}  // namespace

// For a block of classes. `z` [classes, n], products of the centres `weight` [classes, size] with scaled unit embeddings, become
// exp(z / |w| - shift) / |w|, 0 where z is -infinity; `inv_norm` [classes] become 1 / |w|, and `sums` [n] those of the exponentials
// before the division.
extern "C" void softmax_exponentials(int64_t classes, int64_t n, int64_t size, const float* weight, const float* shift,
                                     float smallest_norm, int threads, float* z, float* inv_norm, float* sums) {
  const int64_t pieces = (classes + kPiece - 1) / kPiece;
  std::vector<float> by_piece(pieces * n);
  ThreadPool& pool = ThreadPool::of(threads);
  pool.run([&](Next& next) {
    for (int64_t piece; (piece = next++) < pieces;) {
      float* totals = by_piece.data() + piece * n;
      for (int64_t j = piece * kPiece; j < std::min((piece + 1) * kPiece, classes); ++j) {
        const float* w = weight + j * size;
        Lanes squares{};
        int64_t d = 0;
        for (; d + kLanes <= size; d += kLanes) squares += load(w + d) * load(w + d);
        float square = sum(squares);
        for (; d < size; ++d) square += w[d] * w[d];
        const float inverse = inv_norm[j] = 1 / std::max(std::sqrt(square), smallest_norm);  // in this order: keeps NaN
        float* values = z + j * n;
        int64_t i = 0;
        for (; i + kLanes <= n; i += kLanes) {
          const Lanes e = exponential(load(values + i) * inverse - load(shift + i));
          store(totals + i, load(totals + i) + e);
          store(values + i, e * inverse);
        }
        for (; i < n; ++i) {
          const float e = exponential(Lanes{} + (values[i] * inverse - shift[i]))[0];
          totals[i] += e;
          values[i] = e * inverse;
        }
      }
    }
  });
  sum_parts(pool, by_piece, pieces, n, sums);
}

// A step of momentum SGD for a block of classes: rows `at` [classes] of the centres `weight` and of `velocity`. The gradient
// [classes, size] counts without its part along each centre, which changes only the length; `inv_norm` [classes] are 1 / |w|.
extern "C" void softmax_update(int64_t classes, int64_t size, const int64_t* at, const float* gradient, const float* inv_norm,
                               float lr, float momentum, float weight_decay, int threads, float* weight, float* velocity) {
  constexpr int64_t kAhead = 4;
  ThreadPool& pool = ThreadPool::of(threads);
  pool.run([&](Next& next) {
    for (int64_t first; (first = kPiece * next++) < classes;)
      for (int64_t j = first; j < std::min(first + kPiece, classes); ++j) {
        if (j + kAhead < classes)  // sampled classes lie anywhere: the processor does not foresee them
          for (int64_t d = 0; d < size; d += 16) {
            __builtin_prefetch(weight + at[j + kAhead] * size + d, 1);
            __builtin_prefetch(velocity + at[j + kAhead] * size + d, 1);
          }
        const float* g = gradient + j * size;
        float *w = weight + at[j] * size, *v = velocity + at[j] * size;
        Lanes products{};
        int64_t d = 0;
        for (; d + kLanes <= size; d += kLanes) products += load(g + d) * load(w + d);
        float product = sum(products);
        for (; d < size; ++d) product += g[d] * w[d];
        const float decay = weight_decay - product * inv_norm[j] * inv_norm[j];
        d = 0;
        for (; d + kLanes <= size; d += kLanes) {
          const Lanes moved = load(v + d) * momentum + load(g + d) + load(w + d) * decay;
          store(v + d, moved);
          store(w + d, load(w + d) - moved * lr);
        }
        for (; d < size; ++d) {
          v[d] = v[d] * momentum + g[d] + w[d] * decay;
          w[d] -= v[d] * lr;
        }
      }
  });
}
