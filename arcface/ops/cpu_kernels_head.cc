// The passes of a margin softmax over a block of classes and its centres, for training on a CPU in float32.
//
// Threads share out rows, and sums over rows are added in a fixed order: results do not depend on the threads.

#include <cmath>

#include "cpu_kernels.h"

namespace {

using namespace kernels;

constexpr int64_t kPiece = 64;  // rows that a thread takes at a time, and whose sums are taken together

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

// For a block of classes. `logits` [rows, n], products of the centres `weight` [rows, size] with scaled unit embeddings, become
// exp(logit / |w| - shift) / |w|, 0 where `hidden` [n] names the row, if it is one of these; `inverses` [rows] become 1 / |w|,
// and `sums` [n] those of the exponentials, before the division.
extern "C" void head_exponentials(int64_t rows, int64_t n, int64_t size, const float* weight, const int64_t* hidden,
                                  const float* shift, float smallest_norm, int threads, float* logits, float* inverses,
                                  float* sums) {
  const int64_t pieces = (rows + kPiece - 1) / kPiece;
  std::vector<float> by_piece(pieces * n);
  for (int64_t i = 0; i < n; ++i)
    if (hidden[i] >= 0 && hidden[i] < rows) logits[hidden[i] * n + i] = -INFINITY;
  Team& team = Team::of(threads);
  team.share([&](Next& next) {
    for (int64_t piece; (piece = next++) < pieces;) {
      float* totals = by_piece.data() + piece * n;
      for (int64_t row = piece * kPiece; row < std::min((piece + 1) * kPiece, rows); ++row) {
        const float* centre = weight + row * size;
        Lanes squares{};
        int64_t d = 0;
        for (; d + kLanes <= size; d += kLanes) squares += load(centre + d) * load(centre + d);
        float square = sum(squares);
        for (; d < size; ++d) square += centre[d] * centre[d];
        const float inverse = inverses[row] = 1 / std::max(std::sqrt(square), smallest_norm);  // in this order: keeps NaN
        float* values = logits + row * n;
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
  add_up(team, by_piece, pieces, n, sums);
}

// A step of momentum SGD for a block of classes, which are rows `at` [rows] of all centres and their momentum `velocity`, by the
// gradient [rows, size] without the part along each centre, which changes only its length; `inverses` [rows] are 1 / |w|.
extern "C" void head_update(int64_t rows, int64_t size, const int64_t* at, const float* gradient, const float* inverses,
                            float lr, float momentum, float weight_decay, int threads, float* weight, float* velocity) {
  constexpr int64_t kAhead = 4;
  Team& team = Team::of(threads);
  team.share([&](Next& next) {
    for (int64_t first; (first = kPiece * next++) < rows;)
      for (int64_t row = first; row < std::min(first + kPiece, rows); ++row) {
        if (row + kAhead < rows)  // sampled rows lie anywhere: the processor does not foresee them
          for (int64_t d = 0; d < size; d += 16) {
            __builtin_prefetch(weight + at[row + kAhead] * size + d, 1);
            __builtin_prefetch(velocity + at[row + kAhead] * size + d, 1);
          }
        const float* g = gradient + row * size;
        float *w = weight + at[row] * size, *v = velocity + at[row] * size;
        Lanes products{};
        int64_t d = 0;
        for (; d + kLanes <= size; d += kLanes) products += load(g + d) * load(w + d);
        float product = sum(products);
        for (; d < size; ++d) product += g[d] * w[d];
        const float pull = weight_decay - product * inverses[row] * inverses[row];
        d = 0;
        for (; d + kLanes <= size; d += kLanes) {
          const Lanes moved = load(v + d) * momentum + load(g + d) + load(w + d) * pull;
          store(v + d, moved);
          store(w + d, load(w + d) - moved * lr);
        }
        for (; d < size; ++d) {
          v[d] = v[d] * momentum + g[d] + w[d] * pull;
          w[d] -= v[d] * lr;
        }
      }
  });
}
