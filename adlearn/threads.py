"""How many threads PyTorch may use."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Run the block, or the function decorated, on `count` threads, however many cores there are.

    Sums are split over threads, so the last digits depend on how many there are, and a network trained for
    many steps makes more of them: the same student scored .81 on two threads and .87 on one. Training that is
    recorded names its number.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def one_thread() -> contextlib.AbstractContextManager[None]:
    """`threads(1)`: for small matrices and small batches.

    LAPACK calls on 150 x 150 matrices wait for one another when threaded: a Cholesky factorisation of 784 of
    them took 0.1 s on one thread, 0.2 s on two, and seconds on two while other programs ran; there,
    `torch.linalg.inv` also stopped with wrong pivots. Training a flow on batches of four feature maps took
    1.3 to 2 times as long on two threads as on one, a decoder of reverse distillation twice as long.
    """
    return threads(1)
