// Fused convolutions for training on a CPU in float32: each is followed by batch norm over the batch, or with fixed statistics, and,
// where it has slopes, PReLU; the first one's input may be added to the last one's output.
//
// Memory limits such a step, so each pass over the activations does all it can. Only the convolutions' outputs y are kept;
// z = prelu(scale * y + shift), which follows them, is computed again wherever it is read, a piece at a time in the cache. Sums
// over a piece are taken when the piece is made. The gradient w.r.t. y is never stored as a whole.
//
// Threads share images, and sums over images are added in a fixed order: results do not depend on the number of threads.

#include <cmath>
#include <memory>
#include <new>

#include "kernels.h"

namespace {

using namespace kernels;

constexpr int kRows = 6, kColumns = 2 * kLanes;  // of a matrix product's tile: its sums fill the registers
constexpr int kTaps = 9;
constexpr int64_t kCached = 64 * 1024;           // floats of a piece of the matrices that stays in the L2 cache
constexpr int64_t kDepth = 128;                  // of a product over positions whose operands stay in the L1 cache
constexpr int64_t kGroups = 32;                  // of images, whose weight gradients are added up in a fixed order

int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// Floats from one row of a matrix to the next, an odd number of cache lines: rows an even number apart would fall into few of the
// cache's sets.
int64_t padded_stride(int64_t columns) {
  const int64_t stride = round_up(columns, 16);
  return stride / 16 % 2 ? stride : stride + 16;
}

// Batch norm and PReLU of one layer, per channel.
struct Norm {
  std::vector<float> mean, inverse_std, scale, shift, slope;  // slope is empty where there is no PReLU
  std::vector<float> by_difference, constant;                 // of the gradient w.r.t. y, besides scale
  float slope_of(int64_t c) const { return slope.empty() ? 1.f : slope[c]; }
};

// Batch norm and PReLU of a channel's values; plain copies without a norm. Fills z with zeros up to `padded`.
inline void activate(const Norm* norm, int64_t c, const float* y, int64_t length, float* z, int64_t padded) {
  if (norm) {
    const float scale = norm->scale[c], shift = norm->shift[c], slope = norm->slope_of(c);
    int64_t i = 0;
    for (; i + kLanes <= length; i += kLanes) {
      Lanes u = load(y + i) * scale + shift;
      store(z + i, select(u > 0.f, u, u * slope));
    }
    for (; i < length; ++i) {
      float u = y[i] * scale + shift;
      z[i] = u > 0.f ? u : u * slope;
    }
  } else {
    std::memcpy(z, y, length * sizeof(float));
  }
  std::fill(z + length, z + std::max(length, padded), 0.f);
}

// Sums over a channel of one image, of which the gradients w.r.t. scale, shift, slope and y consist.
struct Sums {
  double gradient = 0, by_difference = 0, slope = 0;
};

inline void add_sums(const Norm& norm, int64_t c, const float* dz, const float* y, int64_t length, Sums* sums) {
  const float scale = norm.scale[c], shift = norm.shift[c], slope = norm.slope_of(c), mean = norm.mean[c];
  Lanes gradient{}, by_difference{}, by_slope{};
  int64_t i = 0;
  for (; i + kLanes <= length; i += kLanes) {
    Lanes value = load(y + i), upstream = load(dz + i), u = value * scale + shift;
    Lanes g = select(u > 0.f, upstream, upstream * slope);
    gradient += g;
    by_difference += g * (value - mean);
    by_slope += select(u > 0.f, Lanes{}, upstream * u);
  }
  float rest[3] = {};
  for (; i < length; ++i) {
    float u = y[i] * scale + shift, g = u > 0.f ? dz[i] : dz[i] * slope;
    rest[0] += g;
    rest[1] += g * (y[i] - mean);
    rest[2] += u > 0.f ? 0.f : dz[i] * u;
  }
  sums->gradient += sum(gradient) + rest[0];
  sums->by_difference += sum(by_difference) + rest[1];
  sums->slope += sum(by_slope) + rest[2];
}

// The gradient w.r.t. y from the one w.r.t. z.
inline void differentiate(const Norm& norm, int64_t c, const float* dz, const float* y, int64_t length, float* dy,
                          int64_t padded) {
  const float scale = norm.scale[c], shift = norm.shift[c], slope = norm.slope_of(c), mean = norm.mean[c];
  const float by_difference = norm.by_difference[c], constant = norm.constant[c];
  int64_t i = 0;
  for (; i + kLanes <= length; i += kLanes) {
    Lanes value = load(y + i), upstream = load(dz + i), u = value * scale + shift;
    Lanes g = select(u > 0.f, upstream, upstream * slope);
    store(dy + i, g * scale + ((value - mean) * by_difference + constant));
  }
  for (; i < length; ++i) {
    float u = y[i] * scale + shift, g = u > 0.f ? dz[i] : dz[i] * slope;
    dy[i] = g * scale + ((y[i] - mean) * by_difference + constant);
  }
  std::fill(dy + length, dy + std::max(length, padded), 0.f);
}

// 1x1; depthwise 3x3; depthwise, as large as the plane; square over all channels, as a matrix product like 1x1.
enum Kind { kPointwise, kDepthwise, kGlobal, kFull };

struct Layer {
  Kind kind;
  int64_t channels_in, channels_out, kernel, stride, padding;
  int64_t height_in, width_in, height, width;
  const float* weight;
  float* y;  // the convolution's output [N, channels_out, height, width]
  Norm norm;
  int64_t area_in() const { return height_in * width_in; }
  int64_t area() const { return height * width; }
  int64_t rows() const { return kind == kPointwise ? channels_in : channels_in * kernel * kernel; }  // of the product
};

// Sums of y and y^2 about a value near the mean: about 0, the square of a large mean would drown the variance.
struct Moments {
  double sum = 0, squares = 0;
};

// Writes row k of the matrix by which a convolution multiplies its weights: `length` values from position `first` on.
inline void read_row(const Layer& layer, const Norm* before, const float* image, int64_t k, int64_t first, int64_t length,
                     float* row, int64_t padded) {
  if (layer.kind == kPointwise) {
    activate(before, k, image + k * layer.area_in() + first, length, row, padded);
    return;
  }
  const int64_t taps = layer.kernel * layer.kernel, channel = k / taps, tap = k % taps;
  const float* plane = image + channel * layer.area_in();
  int64_t out_y = first / layer.width, out_x = first % layer.width;
  for (int64_t i = 0; i < length; ++i) {
    int64_t y = out_y * layer.stride + tap / layer.kernel - layer.padding;
    int64_t x = out_x * layer.stride + tap % layer.kernel - layer.padding;
    bool inside = y >= 0 && y < layer.height_in && x >= 0 && x < layer.width_in;
    if (inside)
      activate(before, channel, plane + y * layer.width_in + x, 1, row + i, 1);
    else
      row[i] = 0.f;
    if (++out_x == layer.width) out_x = 0, ++out_y;
  }
  std::fill(row + length, row + std::max(length, padded), 0.f);
}

// Weights [m, k] (or [k, m], transposed) as blocks of kRows rows, [m / kRows][k][kRows], with zeros below.
std::vector<float> packed(const float* weight, int64_t m, int64_t k, bool transposed) {
  std::vector<float> blocks(round_up(m, kRows) * k);
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < k; ++j)
      blocks[i / kRows * kRows * k + j * kRows + i % kRows] = transposed ? weight[j * m + i] : weight[i * k + j];
  return blocks;
}

// tile[kRows][2] = block [k][kRows] transposed times columns [k][kColumns]; strides in floats.
inline void multiply(int64_t k, const float* block, int64_t block_stride, const float* columns, int64_t stride,
                     Lanes (*tile)[2]) {
  Lanes sums[kRows][2] = {};
  for (int64_t i = 0; i < k; ++i, block += block_stride, columns += stride) {
    Lanes left = load(columns), right = load(columns + kLanes);
    for (int r = 0; r < kRows; ++r) {
      sums[r][0] += block[r] * left;
      sums[r][1] += block[r] * right;
    }
  }
  for (int r = 0; r < kRows; ++r) tile[r][0] = sums[r][0], tile[r][1] = sums[r][1];
}

inline void store_columns(float* out, const Lanes* row, int64_t columns) {
  if (columns == kColumns) {
    store(out, row[0]);
    store(out + kLanes, row[1]);
  } else {
    std::memcpy(out, row, columns * sizeof(float));
  }
}

// Forward by matrix products: y, and the moments of each image's channels about `pivot`.
void product_forward(const Layer& layer, const Norm* before, const float* x, int64_t images, ThreadPool& pool,
                     std::vector<float>* pivot, std::vector<Moments>* moments) {
  const int64_t m = layer.channels_out, k = layer.rows(), area = layer.area(), blocks = (m + kRows - 1) / kRows;
  const int64_t piece = std::min(round_up(area, kColumns), std::max<int64_t>(kColumns, kCached / 2 / k / kColumns * kColumns));
  const int64_t stride = padded_stride(piece);
  const std::vector<float> weight = packed(layer.weight, m, k, false);
  {
    const int64_t columns = std::min<int64_t>(kColumns, area);
    std::vector<float> input(k * kColumns);
    for (int64_t i = 0; i < k; ++i) read_row(layer, before, x, i, 0, columns, input.data() + i * kColumns, kColumns);
    for (int64_t b = 0; b < blocks; ++b) {
      Lanes tile[kRows][2];
      multiply(k, weight.data() + b * kRows * k, kRows, input.data(), kColumns, tile);
      for (int64_t r = 0; r < kRows && b * kRows + r < m; ++r)
        (*pivot)[b * kRows + r] = (sum(tile[r][0]) + sum(tile[r][1])) / columns;
    }
  }
  pool.run([&](Next& next) {
    std::vector<float> input(k * stride), lanes(m * 2 * kLanes);
    for (int64_t n; (n = next++) < images;) {
      const float* image = x + n * layer.channels_in * layer.area_in();
      float* y = layer.y + n * m * area;
      std::fill(lanes.begin(), lanes.end(), 0.f);
      for (int64_t first = 0; first < area; first += piece) {
        const int64_t length = std::min(piece, area - first);
        for (int64_t i = 0; i < k; ++i)
          read_row(layer, before, image, i, first, length, input.data() + i * stride, round_up(length, kColumns));
        for (int64_t column = 0; column < length; column += kColumns)
          for (int64_t b = 0; b < blocks; ++b) {
            Lanes tile[kRows][2];
            multiply(k, weight.data() + b * kRows * k, kRows, input.data() + column, stride, tile);
            const int64_t columns = std::min<int64_t>(kColumns, length - column);
            for (int64_t r = 0; r < kRows && b * kRows + r < m; ++r) {
              const int64_t c = b * kRows + r;
              float *out = y + c * area + first + column, *sums = lanes.data() + c * 2 * kLanes;
              store_columns(out, tile[r], columns);
              if (columns == kColumns) {
                Lanes left = tile[r][0] - (*pivot)[c], right = tile[r][1] - (*pivot)[c];
                store(sums, load(sums) + (left + right));
                store(sums + kLanes, load(sums + kLanes) + (left * left + right * right));
              } else {
                for (int64_t i = 0; i < columns; ++i) {
                  const float difference = out[i] - (*pivot)[c];
                  sums[i % kLanes] += difference;
                  sums[kLanes + i % kLanes] += difference * difference;
                }
              }
            }
          }
      }
      for (int64_t c = 0; c < m; ++c)
        (*moments)[n * m + c] = {sum(load(lanes.data() + c * 2 * kLanes)), sum(load(lanes.data() + c * 2 * kLanes + kLanes))};
    }
  });
}

// Four rows of `length`, a multiple of 4, as four columns of a matrix with rows `stride_out` apart.
void transpose_four(const float* rows, int64_t stride, int64_t length, float* out, int64_t stride_out) {
  const FourIndices low{0, 4, 1, 5}, high{2, 6, 3, 7}, first{0, 1, 4, 5}, second{2, 3, 6, 7};
  for (int64_t i = 0; i < length; i += 4, out += 4 * stride_out) {
    Four v[4];
    for (int r = 0; r < 4; ++r) v[r] = *reinterpret_cast<const Four*>(rows + r * stride + i);
    Four ab = __builtin_shuffle(v[0], v[1], low), cd = __builtin_shuffle(v[2], v[3], low);
    Four ab2 = __builtin_shuffle(v[0], v[1], high), cd2 = __builtin_shuffle(v[2], v[3], high);
    *reinterpret_cast<Four*>(out) = __builtin_shuffle(ab, cd, first);
    *reinterpret_cast<Four*>(out + stride_out) = __builtin_shuffle(ab, cd, second);
    *reinterpret_cast<Four*>(out + 2 * stride_out) = __builtin_shuffle(ab2, cd2, first);
    *reinterpret_cast<Four*>(out + 3 * stride_out) = __builtin_shuffle(ab2, cd2, second);
  }
}

// out[m, k] += left[length, m] transposed times right[length, k].
void add_product(const float* left, int64_t m, int64_t left_stride, const float* right, int64_t k, int64_t right_stride,
                 int64_t length, float* out) {
  for (int64_t top = 0; top < length; top += kDepth)
    for (int64_t j = 0; j < k; j += kColumns)
      for (int64_t i = 0; i < m; i += kRows) {
        Lanes tile[kRows][2];
        multiply(std::min(kDepth, length - top), left + top * left_stride + i, left_stride, right + top * right_stride + j,
                 right_stride, tile);
        for (int64_t r = 0; r < kRows && i + r < m; ++r) {
          float* row = out + (i + r) * k + j;
          if (j + kColumns <= k) {
            store(row, load(row) + tile[r][0]);
            store(row + kLanes, load(row + kLanes) + tile[r][1]);
          } else {
            const float* values = reinterpret_cast<const float*>(tile[r]);
            for (int64_t c = 0; j + c < k; ++c) row[c] += values[c];
          }
        }
      }
}

// Last work on each piece of the gradient w.r.t. a layer's input, while it is in the cache.
struct Epilogue {
  const Norm* norm = nullptr;         // of the layer before,
  const float* y = nullptr;           // with its y:
  std::vector<Sums>* sums = nullptr;  // takes these sums
  const float* residual = nullptr;    // the gradient that it adds
  void operator()(int64_t n, int64_t c, int64_t offset, float* dx, int64_t length, int64_t channels) const {
    if (norm) add_sums(*norm, c, dx, y + offset, length, &(*sums)[n * channels + c]);
    if (residual)
      for (int64_t i = 0; i < length; ++i) dx[i] += residual[offset + i];
  }
};

// Backward by matrix products: the gradients w.r.t. x (unless `dx` is null) and the weights.
void product_backward(const Layer& layer, const Norm* before, const float* x, const float* dz, float* dx, const Epilogue& epilogue,
                      float* dweight, int64_t images, ThreadPool& pool) {
  const int64_t m = layer.channels_out, k = layer.rows(), area = layer.area();
  const int64_t groups = std::min(images, kGroups);
  const int64_t depth = 2 * m + k;
  const int64_t piece = std::min(round_up(area, kColumns), std::max<int64_t>(kColumns, kCached / depth / kColumns * kColumns));
  const int64_t stride = padded_stride(piece), m_stride = padded_stride(m + kRows), k_stride = padded_stride(k + kColumns);
  const int64_t blocks = (k + kRows - 1) / kRows;
  const std::vector<float> weight = dx ? packed(layer.weight, k, m, true) : std::vector<float>();
  std::vector<float> by_group(groups * m * k);
  pool.run([&](Next& next) {
    // The gradient w.r.t. y; for the weights' gradient, the same and the input, both with positions as rows.
    std::vector<float> dy(round_up(m, 4) * stride), dy_turned(piece * m_stride), four(4 * stride), input_turned(piece * k_stride);
    for (int64_t group; (group = next++) < groups;)
      for (int64_t n = group * images / groups; n < (group + 1) * images / groups; ++n)
        for (int64_t first = 0; first < area; first += piece) {
          const int64_t length = std::min(piece, area - first), padded = round_up(length, kColumns);
          const float* image = x + n * layer.channels_in * layer.area_in();
          for (int64_t c = 0; c < m; c += 4) {
            for (int64_t r = c; r < std::min(c + 4, m); ++r) {
              const int64_t offset = (n * m + r) * area + first;
              differentiate(layer.norm, r, dz + offset, layer.y + offset, length, dy.data() + r * stride, padded);
            }
            transpose_four(dy.data() + c * stride, stride, padded, dy_turned.data() + c, m_stride);
          }
          for (int64_t i = 0; i < k; i += 4) {
            for (int64_t r = i; r < std::min(i + 4, k); ++r)
              read_row(layer, before, image, r, first, length, four.data() + (r - i) * stride, padded);
            transpose_four(four.data(), stride, padded, input_turned.data() + i, k_stride);
          }
          add_product(dy_turned.data(), m, m_stride, input_turned.data(), k, k_stride, length, by_group.data() + group * m * k);
          if (!dx) continue;
          for (int64_t column = 0; column < length; column += kColumns)
            for (int64_t b = 0; b < blocks; ++b) {
              Lanes tile[kRows][2];
              multiply(m, weight.data() + b * kRows * m, kRows, dy.data() + column, stride, tile);
              for (int64_t r = 0; r < kRows && b * kRows + r < k; ++r)
                store_columns(dx + (n * k + b * kRows + r) * area + first + column, tile[r],
                              std::min<int64_t>(kColumns, length - column));
            }
          for (int64_t c = 0; c < k; ++c) {
            const int64_t offset = (n * k + c) * area + first;
            epilogue(n, c, offset, dx + offset, length, k);
          }
        }
  });
  sum_parts(pool, by_group, groups, m * k, dweight);
}

// A depthwise 3x3 convolution, padded by 1, in a frame: the input with zeros around it, cut for stride 2 into its four
// phases (even and odd rows and columns). Output position q, counted along rows of `pitch`, is then the sum over the taps of
// weight[tap] * frame[at[tap] + q]: long loops for any width. Positions beyond a row's end are unused.
class Frame {
 public:
  explicit Frame(const Layer& layer) : layer_(layer) {
    pitch = layer.stride == 1 ? layer.width + 2 : layer.width + 1;
    phase_ = round_up((layer.height + 2) * pitch + 2 * kLanes, kLanes);
    length = round_up(layer.height * pitch, kLanes);
    for (int t = 0; t < kTaps; ++t) at[t] = start(t / 3, t % 3);
    values.resize(4 * phase_ + length);
    margin = round_up(2 * pitch + 2, kLanes);
    plane.resize(margin + length + margin);
  }

  void read(const Norm* norm, int64_t c, const float* x) {
    for (int64_t i = 0; i < layer_.height_in; ++i) {
      const float* row = x + i * layer_.width_in;
      if (layer_.stride == 1) {
        activate(norm, c, row, layer_.width_in, values.data() + start(i + 1, 1), 0);
      } else {
        row_.resize(layer_.width_in);
        activate(norm, c, row, layer_.width_in, row_.data(), 0);
        float *odd = values.data() + start(i + 1, 1), *even = values.data() + start(i + 1, 2);
        const int64_t pairs = layer_.width_in / 2;
        for (int64_t j = 0; j < pairs; ++j) odd[j] = row_[2 * j], even[j] = row_[2 * j + 1];
        if (layer_.width_in % 2) odd[pairs] = row_[2 * pairs];
      }
    }
  }

  // The sums of `count` taps into out[0 .. length).
  template <int kCount>
  static void convolve(const float* const* from, const float* weight, int64_t length, float* out) {
    for (int64_t q = 0; q < length; q += kLanes) {
      Lanes total = load(from[0] + q) * weight[0];
      for (int t = 1; t < kCount; ++t) total += load(from[t] + q) * weight[t];
      store(out + q, total);
    }
  }

  void forward(const float* weight) {
    const float* from[kTaps];
    for (int t = 0; t < kTaps; ++t) from[t] = values.data() + at[t];
    convolve<kTaps>(from, weight, length, out());
  }

  void add_weight_gradient(float* dweight) {
    Lanes totals[kTaps] = {};
    for (int64_t q = 0; q < length; q += kLanes) {
      Lanes dy = load(out() + q);
      for (int t = 0; t < kTaps; ++t) totals[t] += dy * load(values.data() + at[t] + q);
    }
    for (int t = 0; t < kTaps; ++t) dweight[t] += sum(totals[t]);
  }

  // Writes the gradient w.r.t. the input to dx; the one w.r.t. the output is in out(), zero beyond the rows' ends.
  void input_gradient(const float* weight, float* dx) {
    const int64_t height_in = layer_.height_in, width_in = layer_.width_in;
    if (layer_.stride == 1) {
      const float* from[kTaps];
      for (int t = 0; t < kTaps; ++t) from[t] = out() + start(1, 1) - at[t];
      gradient_.resize(length);
      convolve<kTaps>(from, weight, length, gradient_.data());
      for (int64_t i = 0; i < height_in; ++i)
        std::memcpy(dx + i * width_in, gradient_.data() + i * pitch, width_in * sizeof(float));
      return;
    }
    // Padded row and column 2a and 2b meet taps 0 and 2, 2a + 1 and 2b + 1 tap 1; the first padded ones fall away.
    gradient_.resize(4 * phase_);
    const int64_t reach = round_up(length + pitch + 1, kLanes);
    const float* g = out();
    float* phase[4] = {gradient_.data(), gradient_.data() + phase_, gradient_.data() + 2 * phase_, gradient_.data() + 3 * phase_};
    const float *four[] = {g, g - 1, g - pitch, g - pitch - 1}, *two_columns[] = {g, g - 1}, *two_rows[] = {g, g - pitch};
    const float four_weights[] = {weight[0], weight[2], weight[6], weight[8]};
    const float column_weights[] = {weight[3], weight[5]}, row_weights[] = {weight[1], weight[7]};
    convolve<4>(four, four_weights, reach, phase[0]);
    convolve<2>(two_rows, row_weights, reach, phase[1]);
    convolve<2>(two_columns, column_weights, length, phase[2]);
    convolve<1>(&g, weight + 4, length, phase[3]);
    for (int64_t i = 0; i < height_in; ++i) {
      const int64_t row = (i + 1) / 2 * pitch, rows = (i + 1) % 2 * 2;
      const float *odd = phase[rows + 1] + row, *even = phase[rows] + row + 1;
      float* to = dx + i * width_in;
      const int64_t pairs = width_in / 2;
      for (int64_t j = 0; j < pairs; ++j) to[2 * j] = odd[j], to[2 * j + 1] = even[j];
      if (width_in % 2) to[2 * pairs] = odd[pairs];
    }
  }

  float* out() { return plane.data() + margin; }

  int64_t pitch, length, margin;

 private:
  // The offset of padded position (y, x).
  int64_t start(int64_t y, int64_t x) const {
    if (layer_.stride == 1) return y * pitch + x;
    return (y % 2 * 2 + x % 2) * phase_ + y / 2 * pitch + x / 2;
  }

  const Layer& layer_;
  int64_t phase_;
  int64_t at[kTaps];
  std::vector<float> values, plane, row_, gradient_;
};

void depthwise_forward(const Layer& layer, const Norm* before, const float* x, int64_t images, ThreadPool& pool,
                       std::vector<float>* pivot, std::vector<Moments>* moments) {
  const int64_t channels = layer.channels_out, area = layer.area();
  std::fill(pivot->begin(), pivot->end(), 0.f);
  pool.run([&](Next& next) {
    Frame frame(layer);
    for (int64_t n; (n = next++) < images;)
      for (int64_t c = 0; c < channels; ++c) {
        frame.read(before, c, x + (n * channels + c) * layer.area_in());
        frame.forward(layer.weight + c * kTaps);
        float* y = layer.y + (n * channels + c) * area;
        for (int64_t i = 0; i < layer.height; ++i)
          std::memcpy(y + i * layer.width, frame.out() + i * frame.pitch, layer.width * sizeof(float));
        Lanes totals{}, squares{};
        int64_t i = 0;
        const float first = y[0];
        for (; i + kLanes <= area; i += kLanes) {
          Lanes difference = load(y + i) - first;
          totals += difference;
          squares += difference * difference;
        }
        double total = sum(totals), square = sum(squares);
        for (; i < area; ++i) total += y[i] - first, square += (y[i] - first) * (y[i] - first);
        // About zero again, in float64, so that images can be added.
        (*moments)[n * channels + c] = {total + double(first) * area,
                                        square + 2 * double(first) * total + double(first) * first * area};
      }
  });
}

void depthwise_backward(const Layer& layer, const Norm* before, const float* x, const float* dz, float* dx,
                        const Epilogue& epilogue, float* dweight, int64_t images, ThreadPool& pool) {
  const int64_t channels = layer.channels_out, area = layer.area(), area_in = layer.area_in();
  std::vector<float> by_image(images * channels * kTaps);
  pool.run([&](Next& next) {
    Frame frame(layer);
    std::vector<float> dy(area);
    for (int64_t n; (n = next++) < images;)
      for (int64_t c = 0; c < channels; ++c) {
        const int64_t plane = n * channels + c;
        differentiate(layer.norm, c, dz + plane * area, layer.y + plane * area, area, dy.data(), area);
        for (int64_t i = 0; i < layer.height; ++i)
          std::memcpy(frame.out() + i * frame.pitch, dy.data() + i * layer.width, layer.width * sizeof(float));
        frame.read(before, c, x + plane * area_in);
        frame.add_weight_gradient(by_image.data() + plane * kTaps);
        if (!dx) continue;
        frame.input_gradient(layer.weight + c * kTaps, dx + plane * area_in);
        epilogue(n, c, plane * area_in, dx + plane * area_in, area_in, channels);
      }
  });
  sum_parts(pool, by_image, images, channels * kTaps, dweight);
}

// A depthwise kernel as large as the plane: y is one number a channel.
void global_forward(const Layer& layer, const Norm* before, const float* x, int64_t images, ThreadPool& pool,
                    std::vector<float>*, std::vector<Moments>* moments) {
  const int64_t channels = layer.channels_out, area = layer.area_in();
  pool.run([&](Next& next) {
    std::vector<float> input(area);
    for (int64_t n; (n = next++) < images;)
      for (int64_t c = 0; c < channels; ++c) {
        activate(before, c, x + (n * channels + c) * area, area, input.data(), area);
        double total = 0;
        for (int64_t i = 0; i < area; ++i) total += double(input[i]) * layer.weight[c * area + i];
        const float y = layer.y[n * channels + c] = total;
        (*moments)[n * channels + c] = {y, double(y) * y};
      }
  });
}

void global_backward(const Layer& layer, const Norm* before, const float* x, const float* dz, float* dx, const Epilogue& epilogue,
                     float* dweight, int64_t images, ThreadPool& pool) {
  const int64_t channels = layer.channels_out, area = layer.area_in();
  pool.run([&](Next& next) {
    std::vector<float> input(area);
    std::vector<double> totals(area);
    for (int64_t c; (c = next++) < channels;) {
      std::fill(totals.begin(), totals.end(), 0.);
      for (int64_t n = 0; n < images; ++n) {
        const int64_t plane = n * channels + c;
        float dy;
        differentiate(layer.norm, c, dz + plane, layer.y + plane, 1, &dy, 1);
        activate(before, c, x + plane * area, area, input.data(), area);
        for (int64_t i = 0; i < area; ++i) totals[i] += double(dy) * input[i];
        if (!dx) continue;
        for (int64_t i = 0; i < area; ++i) dx[plane * area + i] = dy * layer.weight[c * area + i];
        epilogue(n, c, plane * area, dx + plane * area, area, channels);
      }
      std::copy(totals.begin(), totals.end(), dweight + c * area);
    }
  });
}

// Pointers of each layer, from Python.
struct Parameters {
  const float *weight, *scale, *shift, *slope;  // slope is null where there is no PReLU
  float *running_mean, *running_variance;       // both are updated by the forward pass, unless they are what it uses: `fixed`
};
struct Gradients {
  float *weight, *scale, *shift, *slope;
};
struct Shape {
  int64_t channels_out, kernel, stride, padding, depthwise;
};

std::vector<Layer> describe(const int64_t* input, const Shape* shapes, const Parameters* parameters, int64_t count, float* y) {
  std::vector<Layer> layers(count);
  int64_t channels = input[1], height = input[2], width = input[3];
  for (int64_t i = 0; i < count; ++i) {
    Layer& layer = layers[i];
    const Shape& shape = shapes[i];
    layer.kind = !shape.depthwise ? shape.kernel == 1 ? kPointwise : kFull : shape.padding ? kDepthwise : kGlobal;
    layer.channels_in = channels;
    layer.channels_out = channels = shape.channels_out;
    layer.kernel = shape.kernel;
    layer.stride = shape.stride;
    layer.padding = shape.padding;
    layer.height_in = height;
    layer.width_in = width;
    layer.height = height = (height + 2 * shape.padding - shape.kernel) / shape.stride + 1;
    layer.width = width = (width + 2 * shape.padding - shape.kernel) / shape.stride + 1;
    layer.weight = parameters[i].weight;
    if (parameters[i].slope) layer.norm.slope.assign(parameters[i].slope, parameters[i].slope + channels);
    layer.y = y;
    y += input[0] * channels * layer.area();
  }
  return layers;
}

void set_norm(Layer* layer, const float* mean, const float* inverse_std, const Parameters& parameters) {
  Norm& norm = layer->norm;
  norm.mean.assign(mean, mean + layer->channels_out);
  norm.inverse_std.assign(inverse_std, inverse_std + layer->channels_out);
  for (int64_t c = 0; c < layer->channels_out; ++c) {
    norm.scale.push_back(parameters.scale[c] * inverse_std[c]);
    norm.shift.push_back(parameters.shift[c] - mean[c] * norm.scale[c]);
  }
}

}  // namespace

// `input` is the shape of x, [N, C, H, W]. Writes z, all layers' y one after the other, and to `norms` each layer's means and
// 1 / standard deviations. Returns false if out of memory.
extern "C" bool conv_bn_prelu_forward(const int64_t* input, const float* x, const Shape* shapes, const Parameters* parameters,
                                      int64_t count, bool residual, bool fixed, float epsilon, float momentum, int threads,
                                      float* y, float* norms, float* z) try {
  ThreadPool& pool = ThreadPool::of(threads);
  std::vector<Layer> layers = describe(input, shapes, parameters, count, y);
  const int64_t images = input[0];
  for (int64_t i = 0; i < count; ++i) {
    Layer& layer = layers[i];
    const Parameters& own = parameters[i];
    const int64_t channels = layer.channels_out;
    std::vector<float> pivot(channels);
    std::vector<Moments> moments(images * channels);
    (layer.kind == kDepthwise ? depthwise_forward : layer.kind == kGlobal ? global_forward : product_forward)(
        layer, i ? &layers[i - 1].norm : nullptr, i ? layers[i - 1].y : x, images, pool, &pivot, &moments);
    for (int64_t c = 0; c < channels; ++c) {
      if (fixed) {
        norms[c] = own.running_mean[c];
        norms[channels + c] = 1 / std::sqrt(own.running_variance[c] + epsilon);
        continue;
      }
      Moments total;
      for (int64_t n = 0; n < images; ++n)
        total.sum += moments[n * channels + c].sum, total.squares += moments[n * channels + c].squares;
      const double values = images * layer.area(), off = total.sum / values;
      const double variance = std::max(total.squares / values - off * off, 0.);  // in this order: keeps NaN
      norms[c] = pivot[c] + off;
      norms[channels + c] = 1 / std::sqrt(variance + epsilon);
      own.running_mean[c] = momentum * own.running_mean[c] + (1 - momentum) * norms[c];
      own.running_variance[c] = momentum * own.running_variance[c] + (1 - momentum) * float(variance);
    }
    set_norm(&layer, norms, norms + channels, own);
    norms += 2 * channels;
  }
  const Layer& last = layers.back();
  const int64_t channels = last.channels_out, area = last.area();
  pool.run([&](Next& next) {
    for (int64_t n; (n = next++) < images;)
      for (int64_t c = 0; c < channels; ++c) {
        const int64_t offset = (n * channels + c) * area;
        activate(&last.norm, c, last.y + offset, area, z + offset, 0);
        if (residual)
          for (int64_t p = 0; p < area; ++p) z[offset + p] += x[offset + p];
      }
  });
  return true;
} catch (const std::bad_alloc&) {
  return false;
}

// Writes the gradients w.r.t. x, unless `dx` is null, and the parameters, from the one w.r.t. z and what the forward pass wrote.
// Returns false if out of memory.
extern "C" bool conv_bn_prelu_backward(const int64_t* input, const float* x, const Shape* shapes, const Parameters* parameters,
                                       int64_t count, bool residual, bool fixed, int threads, float* y, const float* norms,
                                       const float* dz, const Gradients* gradients, float* dx) try {
  ThreadPool& pool = ThreadPool::of(threads);
  std::vector<Layer> layers = describe(input, shapes, parameters, count, y);
  const int64_t images = input[0];
  for (int64_t i = 0; i < count; ++i) {
    set_norm(&layers[i], norms, norms + layers[i].channels_out, parameters[i]);
    norms += 2 * layers[i].channels_out;
  }
  const Layer& last = layers.back();
  std::vector<Sums> sums(images * last.channels_out);
  pool.run([&](Next& next) {
    for (int64_t n; (n = next++) < images;)
      for (int64_t c = 0; c < last.channels_out; ++c) {
        const int64_t plane = n * last.channels_out + c, offset = plane * last.area();
        add_sums(last.norm, c, dz + offset, last.y + offset, last.area(), &sums[plane]);
      }
  });
  const float* upstream = dz;
  std::unique_ptr<float[]> of_layer, of_layer_before;  // gradients w.r.t. the layers' inputs; not filled with zeros first
  for (int64_t i = count - 1; i >= 0; --i) {
    Layer& layer = layers[i];
    Norm& norm = layer.norm;
    const double values = images * layer.area();
    for (int64_t c = 0; c < layer.channels_out; ++c) {
      Sums total;
      for (int64_t n = 0; n < images; ++n) {
        const Sums& part = sums[n * layer.channels_out + c];
        total.gradient += part.gradient, total.by_difference += part.by_difference, total.slope += part.slope;
      }
      const double inverse_std = norm.inverse_std[c];
      gradients[i].scale[c] = total.by_difference * inverse_std;
      gradients[i].shift[c] = total.gradient;
      if (gradients[i].slope) gradients[i].slope[c] = total.slope;
      // By way of the statistics of the batch.
      norm.by_difference.push_back(fixed ? 0 : -norm.scale[c] * inverse_std * inverse_std * total.by_difference / values);
      norm.constant.push_back(fixed ? 0 : -norm.scale[c] * total.gradient / values);
    }
    Epilogue epilogue;
    float* by_input = dx;
    if (i) {
      sums.assign(images * layer.channels_in, Sums());
      epilogue.norm = &layers[i - 1].norm;
      epilogue.y = layers[i - 1].y;
      epilogue.sums = &sums;
      of_layer_before.reset(new float[images * layer.channels_in * layer.area_in()]);
      by_input = of_layer_before.get();
    } else if (residual) {
      epilogue.residual = dz;
    }
    (layer.kind == kDepthwise ? depthwise_backward : layer.kind == kGlobal ? global_backward : product_backward)(
        layer, i ? &layers[i - 1].norm : nullptr, i ? layers[i - 1].y : x, upstream, by_input, epilogue, gradients[i].weight,
        images, pool);
    of_layer.swap(of_layer_before);
    upstream = by_input;
  }
  return true;
} catch (const std::bad_alloc&) {
  return false;
}
