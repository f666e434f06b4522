import pytest
import torch

from adlearn.threads import one_thread, threads


def test_the_number_of_threads_comes_back_even_after_an_error():
    torch.set_num_threads(2)
    with pytest.raises(ZeroDivisionError), one_thread():
        assert torch.get_num_threads() == 1
        raise ZeroDivisionError
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)


def test_a_number_of_threads_holds_inside_and_is_given_back():
    before = torch.get_num_threads()

    @threads(3)
    def inside():
        return torch.get_num_threads()

    assert [inside(), inside()] == [3, 3]
    with pytest.raises(KeyError), threads(2):
        raise KeyError
    assert torch.get_num_threads() == before
