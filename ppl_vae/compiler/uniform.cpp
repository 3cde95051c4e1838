// The next uniform numbers in [0, 1) of torch's generator on CPUs, those of `torch.rand`: a
// Mersenne Twister (Matsumoto and Nishimura, 1998), several numbers at once.

#include <algorithm>
#include <cstdint>

namespace {

constexpr int size = 624, lag = 397, lanes = 8;

// The first part of what `torch.Generator.get_state` returns; normal numbers for later follow.
struct State {
    uint64_t seed;
    int32_t left, seeded;
    uint64_t next, words[size];
};

typedef uint32_t Words __attribute__((vector_size(4 * lanes), aligned(4), may_alias));
typedef float Floats __attribute__((vector_size(4 * lanes), aligned(4), may_alias));

inline Words load(const uint32_t* from) { return *reinterpret_cast<const Words*>(from); }

template <typename T>
inline T twisted(T above, T a, T b) {
    return above ^ (((a & 0x80000000u) | (b & 0x7fffffffu)) >> 1) ^ (-(b & 1u) & 0x9908b0dfu);
}

// Words i up to end, of which each needs the one `ahead` of it.
inline void advance(uint32_t* words, int i, int end, int ahead) {
    for (; i + lanes <= end; i += lanes) {
        const Words next = twisted(load(words + i + ahead), load(words + i), load(words + i + 1));
        *reinterpret_cast<Words*>(words + i) = next;
    }
    for (; i < end; ++i) words[i] = twisted(words[i + ahead], words[i], words[i + 1]);
}

template <typename T>
inline T tempered(T y) {
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    y ^= y >> 18;
    return y & 0xffffffu;  // as many bits as a float has
}

inline void convert(const uint32_t* words, float* out, int64_t count) {
    typedef int32_t Integers __attribute__((vector_size(4 * lanes)));
    int64_t i = 0;
    for (; i + lanes <= count; i += lanes) {
        const Integers y = Integers(tempered(load(words + i)));
        *reinterpret_cast<Floats*>(out + i) = __builtin_convertvector(y, Floats) * 0x1p-24f;
    }
    for (; i < count; ++i) out[i] = tempered(words[i]) * 0x1p-24f;
}

}  // namespace

extern "C" void uniform(uint8_t* bytes, float* out, int64_t count) {
    State& state = *reinterpret_cast<State*>(bytes);
    uint32_t words[size + 1];
    std::copy(state.words, state.words + size, words);
    int64_t next = size - (state.left - 1);
    for (int64_t done = 0; done < count;) {
        if (next == size) {
            advance(words, 0, size - lag, lag);
            words[size] = words[0];
            advance(words, size - lag, size, lag - size);
            next = 0;
        }
        const int64_t chunk = std::min(count - done, size - next);
        convert(words + next, out + done, chunk);
        next += chunk;
        done += chunk;
    }
    std::copy(words, words + size, state.words);
    state.left = size - next + 1;
    state.next = next;
}
