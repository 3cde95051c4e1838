"""In which precision the networks compute."""

import pytest
import torch
from torch import nn

from models import VAE, Spec
from ppl_vae.machine.devices import choose_device
from ppl_vae.training.precision import matrix_precision


def flags() -> tuple[bool, bool]:
    """Whether cuBLAS and cuDNN may round the operands of float32 products."""
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "tensorfloat32"])
def test_operands_are_rounded_only_where_that_was_chosen(precision) -> None:
    choose_device("cpu")
    seen = []

    def compute() -> None:
        with matrix_precision(precision, nn.Module()):
            seen.append(flags())
            raise KeyError

    with pytest.raises(KeyError):
        compute()
    assert seen == [(precision == "tensorfloat32",) * 2]
    assert flags() == (False, False)


def test_networks_keep_the_type_of_their_parameters_but_in_bfloat16() -> None:
    model = VAE(Spec((1, 5, 4), "binary", 3))
    for precision, dtype in (("float32", None), ("tensorfloat32", None), ("bfloat16", "bfloat16")):
        with matrix_precision(precision, model):
            assert model.decoder.precision == (dtype and getattr(torch, dtype))
        assert model.decoder.precision is None
