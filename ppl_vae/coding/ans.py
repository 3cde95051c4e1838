"""The stack of bits: asymmetric numeral systems, by `constriction`."""

from collections.abc import Callable, Iterator
from hashlib import shake_128
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppl_vae.coding.tables import MASS
from ppl_vae.errors import InputError

__all__ = ["Masses", "Stack", "Symbols", "Words"]

Words = NDArray[np.uint32]
Symbols = NDArray[np.int32]
Masses = Callable[[slice], NDArray[np.float32]]

_ENTRIES = 2**16  # masses in memory at a time: they stay in the cache


class Stack:
    """Symbols are pushed and popped, each under the masses that it has at that moment.

    Duda (2013), with 64 bits of state and words of 32, and masses of 24 bits, none of which is
    zero: a symbol of mass 0 costs 24 bits.

    Masses are whole numbers that add up to 2^23 at most. float32 adds such numbers without
    rounding, so that the coder, which takes float32, sees the same sums everywhere.

    Args:
        words: What lies on it.

    Raises:
        InputError: If no stack ends in such words, or `constriction` is not installed.
    """

    def __init__(self, words: Words) -> None:
        stream = _constriction().stream
        if len(words) and not words[-1]:
            raise InputError("expected words of a stack, the last one above 0")
        self._models = stream.model
        self._coder = stream.stack.AnsCoder(words)

    @classmethod
    def seeded(cls, bits: int) -> "Stack":
        """One with so many fixed bits on it, or a few more, to draw the first latents from."""
        return cls(_seed(bits))

    def holds_seed(self, bits: int) -> bool:
        """Whether it holds what `seeded` began with, and nothing else."""
        return np.array_equal(self.words, _seed(bits))

    def __len__(self) -> int:
        return self._coder.num_words()

    @property
    def words(self) -> Words:
        """What lies on it."""
        return self._coder.get_compressed()

    def push(self, symbols: Symbols, masses: Masses, width: int) -> None:
        """Pushes the last symbol first, so that `pop` gives them in their order.

        Args:
            symbols: (N,).
            masses: Gives the masses of a slice of them, (n, width), or where width is 1 those of
                the symbol 1 beside 0, (n,).
            width: How many symbols there are to choose from; 1 for two.
        """
        for piece in reversed(list(_pieces(len(symbols), width))):
            self._coder.encode_reverse(symbols[piece], *self._model(masses(piece)))

    def pop(self, count: int, masses: Masses, width: int) -> Symbols:
        """The symbols (N,) that `push` was given."""
        popped = [self._coder.decode(*self._model(masses(p))) for p in _pieces(count, width)]
        return np.concatenate(popped)

    def push_evenly(self, symbols: Symbols, choices: int) -> None:
        """Pushes symbols that are equally likely."""
        self._coder.encode_reverse(symbols, self._models.Uniform(choices))

    def pop_evenly(self, count: int, choices: int) -> Symbols:
        """The symbols (N,) that `push_evenly` was given."""
        return self._coder.decode(self._models.Uniform(choices), count)

    def _model(self, masses: NDArray[np.float32]) -> tuple[Any, NDArray[np.float32]]:
        if masses.ndim == 1:
            return self._models.Bernoulli(perfect=False), masses * np.float32(2.0**-MASS)
        return self._models.Categorical(perfect=False), masses


def _pieces(count: int, width: int) -> Iterator[slice]:
    step = max(1, _ENTRIES // width)
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def _seed(bits: int) -> Words:
    words = -(-bits // 32) + 1
    seed = np.frombuffer(shake_128(b"bits-back").digest(4 * words), "<u4").astype(np.uint32)
    seed[-1] |= 1 << 31  # the coder takes no zero at the end
    return seed


def _constriction() -> ModuleType:
    try:
        import constriction
    except ImportError as error:
        raise InputError(
            "expected the package constriction, which codes the symbols; install it with "
            "pip install 'ppl-vae[compress]'"
        ) from error
    return constriction
