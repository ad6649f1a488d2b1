"""A fence around the sums over a model's own numbers: what breaks them is that model's trouble, and nobody else's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from launcher.errors import ModelError

# What odd numbers raise, and what values of another kind do; everything else is a mistake of ours, and shows as one.
NUMBERS: tuple[type[Exception], ...] = (ArithmeticError, ValueError)
VALUES = (*NUMBERS, AttributeError, LookupError, RecursionError, TypeError)


@contextmanager
def understood(odd: tuple[type[Exception], ...] = VALUES) -> Iterator[None]:
    """Within it, what is `odd` about a model becomes a ModelError, with the exception as its cause."""
    try:
        yield
    except odd as error:
        raise ModelError(
            f"config.json cannot be understood: {str(error)[:200] or type(error).__name__}.",
            "Download the model again.",
        ) from error
