// A product of matrices, one of which has many zeros: out (R, N) = x (R, M) t (M, N).
//
// The places of the numbers in x that are not zero are listed once. Then each row of out is the sum
// of the rows of t at its places, in the order of the places, whatever the number of threads. Blocks
// of t of `chunk` rows and `width` columns stay in the caches closest to the core. The strides are
// free, but one of the two of each matrix is 1.

#include <algorithm>
#include <cstdint>
#include <memory>
#ifdef __SSE2__
#include <immintrin.h>
#endif

// As many numbers as are added at once, and how two vectors of them are interleaved. Vectors of 16
// are no faster where there are such: memory is what takes the time, and they are slow to transpose.
#if defined(__AVX__)
#define LANES 8
#define LOW 0, 8, 1, 9, 2, 10, 3, 11
#define HIGH 4, 12, 5, 13, 6, 14, 7, 15
#else
#define LANES 4
#define LOW 0, 4, 1, 5
#define HIGH 2, 6, 3, 7
#endif

namespace {

constexpr int64_t lanes = LANES, word = 64, chunk = 3 * word, width = 64, vectors = width / lanes;

typedef float Floats __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t Integers __attribute__((vector_size(4 * LANES)));

inline Floats load(const float* from) { return *reinterpret_cast<const Floats*>(from); }
inline void store(float* to, Floats values) { *reinterpret_cast<Floats*>(to) = values; }

// Which numbers are not zero, one bit each.
inline uint64_t set_bits(Floats v) {
#if defined(__AVX__)
    return uint32_t(_mm256_movemask_ps(__m256(v != 0)));
#elif defined(__SSE2__)
    return uint32_t(_mm_movemask_ps(__m128(v != 0)));
#else
    uint64_t bits = 0;
    for (int i = 0; i < lanes; ++i) bits |= uint64_t(v[i] != 0) << i;
    return bits;
#endif
}

// As many numbers as there are, and zeros up to `lanes`.
inline Floats load_some(const float* from, int64_t count) {
    if (count >= lanes) return load(from);
    float padded[lanes] = {};
    std::copy(from, from + count, padded);
    return load(padded);
}

// To (columns, rows) of from (rows, columns), in tiles of `lanes` by `lanes`.
void transpose(
    const float* from, int64_t step, float* to, int64_t to_step, int64_t rows, int64_t columns) {
    for (int64_t r = 0; r < rows; r += lanes)
        for (int64_t c = 0; c < columns; c += lanes) {
            if (rows - r < lanes || columns - c < lanes) {
                for (int64_t i = r; i < std::min(r + lanes, rows); ++i)
                    for (int64_t j = c; j < std::min(c + lanes, columns); ++j)
                        to[j * to_step + i] = from[i * step + j];
                continue;
            }
            Floats a[lanes], b[lanes];
            for (int i = 0; i < lanes; ++i) a[i] = load(from + (r + i) * step + c);
            for (int done = 1; done < lanes; done *= 2) {  // log2(lanes) perfect shuffles
                for (int i = 0; i < lanes / 2; ++i) {
                    b[2 * i] = __builtin_shufflevector(a[i], a[i + lanes / 2], LOW);
                    b[2 * i + 1] = __builtin_shufflevector(a[i], a[i + lanes / 2], HIGH);
                }
                std::copy(b, b + lanes, a);
            }
            for (int i = 0; i < lanes; ++i) store(to + (c + i) * to_step + r, a[i]);
        }
}

// Memory that a thread keeps from call to call, since new memory costs as much as the work.
template <typename T>
class Kept {
    std::unique_ptr<T[]> memory;
    int64_t size = 0;

public:
    T* get(int64_t wanted) {
        if (wanted > size) memory.reset(new T[size = wanted]());
        return memory.get();
    }
};

thread_local Kept<uint8_t> kept_at, kept_many;
thread_local Kept<float> kept_table, kept_sum;

// Of each row of x and each chunk of it, where the numbers are that are not zero.
struct Places {
    int64_t chunks;
    uint8_t *at, *many;  // (R, chunks, chunk) and (R, chunks)

    Places(int64_t rows, int64_t columns)
        : chunks((columns + chunk - 1) / chunk),
          at(kept_at.get(rows * chunks * chunk)),
          many(kept_many.get(rows * chunks)) {}

    // Of one chunk of a row whose numbers lie side by side; says which are neither 0 nor 1.
    Integers along(const float* x, int64_t index, int64_t end) {
        Integers other = {};
        uint8_t* to = at + index * chunk;
        int count = 0;
        for (int64_t first = 0; first < end; first += word) {
            uint64_t bits = 0;
            for (int64_t i = 0; i < word && first + i < end; i += lanes) {
                const Floats v = load_some(x + first + i, end - first - i);
                other |= (v != 0) & (v != 1);
                bits |= set_bits(v) << i;
            }
            for (; bits; bits &= bits - 1) to[count++] = first + __builtin_ctzll(bits);
        }
        many[index] = count;
        return other;
    }

    // The same of up to `lanes` rows, whose numbers in a column lie side by side.
    Integers across(
        const float* x, int64_t step, int64_t row, int64_t rows, int64_t c, int64_t end) {
        Integers other = {};
        int count[lanes] = {};
        for (int64_t i = 0; i < end; ++i) {
            const Floats v = load_some(x + i * step, rows);
            other |= (v != 0) & (v != 1);
            for (uint64_t bits = set_bits(v); bits; bits &= bits - 1) {
                const int r = __builtin_ctzll(bits);
                at[((row + r) * chunks + c) * chunk + count[r]++] = i;
            }
        }
        for (int64_t r = 0; r < rows; ++r) many[(row + r) * chunks + c] = count[r];
        return other;
    }
};

// Adds to a sum (width) the rows of a table (chunk, width) at some places, each times its x.
template <bool ones>
inline void add(
    const uint8_t* at, int count, const float* x, int64_t step, const float* table, float* sum) {
    Floats sums[vectors];
#pragma GCC unroll 16
    for (int j = 0; j < vectors; ++j) sums[j] = load(sum + j * lanes);
    for (int i = 0; i < count; ++i) {
        const float* row = table + at[i] * width;
        const float v = ones ? 1 : x[at[i] * step];
#pragma GCC unroll 16
        for (int j = 0; j < vectors; ++j) sums[j] += v * load(row + j * lanes);
    }
#pragma GCC unroll 16
    for (int j = 0; j < vectors; ++j) store(sum + j * lanes, sums[j]);
}

}  // namespace

extern "C" void skip_zeros(
    const float* x, int64_t x_row, int64_t x_column,
    const float* t, int64_t t_row, int64_t t_column,
    float* out, int64_t out_row, int64_t out_column,
    int64_t rows, int64_t inner, int64_t columns, int threads) {
    Places places(rows, inner);
    const int64_t chunks = places.chunks;
    int others = 0;
#pragma omp parallel num_threads(threads)
    {
        Integers other = {};
#pragma omp for collapse(2)
        for (int64_t r = 0; r < rows; r += lanes)
            for (int64_t c = 0; c < chunks; ++c) {
                const int64_t m = c * chunk, end = std::min(chunk, inner - m);
                const int64_t some = std::min(lanes, rows - r);
                if (x_column == 1)
                    for (int64_t i = r; i < r + some; ++i)
                        other |= places.along(x + i * x_row + m, i * chunks + c, end);
                else
                    other |= places.across(x + r + m * x_column, x_column, r, some, c, end);
            }
        for (int i = 0; i < lanes; ++i)
            if (other[i]) {
#pragma omp atomic write
                others = 1;
            }
#pragma omp barrier
        float *table = kept_table.get(chunk * width), *sum = kept_sum.get(rows * width);
#pragma omp for schedule(dynamic)
        for (int64_t n = 0; n < columns; n += width) {
            const int64_t wide = std::min(width, columns - n);
            std::fill(sum, sum + rows * width, 0.f);
            for (int64_t c = 0; c < chunks; ++c) {
                const int64_t m = c * chunk, end = std::min(chunk, inner - m);
                const float* from = t + m * t_row + n * t_column;
                if (t_column == 1)
                    for (int64_t i = 0; i < end; ++i)
                        std::copy(from + i * t_row, from + i * t_row + wide, table + i * width);
                else
                    transpose(from, t_column, table, width, wide, end);
                const auto run = others ? add<false> : add<true>;
                for (int64_t r = 0; r < rows; ++r) {
                    const int64_t index = r * chunks + c;
                    const float* values = x + r * x_row + m * x_column;
                    run(places.at + index * chunk, places.many[index], values, x_column, table,
                        sum + r * width);
                }
            }
            float* to = out + n * out_column;
            if (out_column == 1)
                for (int64_t r = 0; r < rows; ++r)
                    std::copy(sum + r * width, sum + r * width + wide, to + r * out_row);
            else
                transpose(sum, width, to, out_column, rows, wide);
        }
    }
}
