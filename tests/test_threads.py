import pytest
import torch

from adlearn.threads import one_thread


def test_the_number_of_threads_comes_back_even_after_an_error():
    torch.set_num_threads(2)
    with pytest.raises(ZeroDivisionError), one_thread():
        assert torch.get_num_threads() == 1
        raise ZeroDivisionError
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
