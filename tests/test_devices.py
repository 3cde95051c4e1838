"""The choice of the device, on machines with and without GPUs."""

from types import SimpleNamespace

import pytest
import torch

from ppl_vae import load
from ppl_vae.errors import InputError
from ppl_vae.fit import fit
from ppl_vae.machine.devices import choose_device, machine_of
from ppl_vae.machine.memory import memory_bound
from ppl_vae.machine.processes import join


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A machine with two of them; which of them is made the current one."""
    current: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    return current


def test_a_gpu_has_a_number(two_gpus: list[int]) -> None:
    """It is the current one from then on: graphs and generators are those of the current one."""
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    assert choose_device("cuda:0") == torch.device("cuda", 0)
    assert two_gpus == [1, 0]
    assert choose_device("cuda") == choose_device("auto") == torch.device("cuda")
    assert choose_device("cpu") == torch.device("cpu")
    assert two_gpus == [1, 0]


@pytest.mark.parametrize("choice", ["cuda:2", "cuda:130"])
def test_a_gpu_that_is_not_there(two_gpus: list[int], choice: str) -> None:
    with pytest.raises(
        InputError, match=f"--device {choice}: expected at most cuda:1, .* 2 CUDA d"
    ):
        choose_device(choice)
    assert not two_gpus


@pytest.mark.parametrize("choice", ["cuda", "cuda:0", "cuda:7"])
def test_no_gpu(choice: str) -> None:
    with pytest.raises(InputError, match=f"--device {choice}: .* no usable CUDA device"):
        choose_device(choice)


@pytest.mark.parametrize("choice", ["gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "", "cuda 1", 1])
def test_what_is_no_device(choice, tmp_path) -> None:
    said = "--device: expected auto, cpu, cuda or cuda:N; got "
    with pytest.raises(InputError, match=said):
        choose_device(choice)
    with pytest.raises(InputError, match=said):
        fit(device=choice, run=tmp_path / "run")


def test_several_processes_choose_their_gpus_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(InputError, match=r"--device: expected auto, cpu or cuda with torchrun.*:1"):
        join("cuda:1")


def test_a_run_is_read_on_a_device_that_is_there(runs) -> None:
    with pytest.raises(InputError, match=r"--device cuda:1: .* no usable CUDA device"):
        load(runs[0].path, device="cuda:1")


def test_a_pass_takes_a_part_of_a_gpu_whatever_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that one seed gives one result, and a larger card does more at once."""
    for gib in (16, 80):
        card = SimpleNamespace(total_memory=gib * 2**30)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device, card=card: card)
        assert memory_bound(torch.device("cuda")) == gib * 2**26
    assert memory_bound(torch.device("cpu")) == 2**25


@pytest.mark.parametrize(("threads", "said"), [(1, "), 1 thread"), (2, "), 2 threads")])
def test_a_processor_is_named_with_the_threads_that_compute(
    threads: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    name = machine_of(torch.device("cpu"))
    assert name.endswith(f"({torch.backends.cpu.get_cpu_capability()}{said}")
    assert not name.startswith(" ")


def test_a_card_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"card {device.index}")
    assert machine_of(torch.device("cuda", 1)) == "card 1"
