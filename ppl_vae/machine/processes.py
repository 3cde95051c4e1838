"""Several processes that train one pair together, each on its share of every batch.

`torchrun` starts them. All hold the same parameters and take the same steps: a step's gradient is
the mean over the whole batch, which is the mean over the processes' shares weighted by their sizes,
because a loss is a mean over data. The first process, rank 0, alone writes files.
"""

import atexit
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ppl_vae.errors import InputError, reason

__all__ = ["LostProcess", "Ranks", "claims_message", "join"]

_READ_STEPS = 50  # between two reads, on a GPU, of the request to stop

_stores: list[dist.Store] = []  # of the process group, which outlives a single run


class LostProcess(InputError):
    """Another process of the run has ended before its time."""


@dataclass
class Ranks:
    """One of the processes that train together; there may be only one.

    Args:
        rank: Its number.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1
    _asked: Callable[[], bool] = field(default=lambda: False, repr=False)
    _any_asked: bool = field(default=False, repr=False)
    _reductions: int = field(default=0, repr=False)
    _presences: dict[tuple[bool, ...], Tensor] = field(default_factory=dict, repr=False)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def share(self, batch: Tensor) -> Tensor:
        """This process's part of a batch's entries, (B,) to about (B / size,).

        Where there is nothing left for this process it is the first entry, of weight 0.
        """
        part = batch.tensor_split(self.size)[self.rank]
        return part if len(part) else batch[:1]

    def weight(self, batch_size: int) -> float:
        """The part of a batch that the share is."""
        return (batch_size // self.size + (self.rank < batch_size % self.size)) / batch_size

    def seed_step(self, seed: int, step: int) -> None:
        """Seeds torch's generators for a step, where several processes have to draw differently."""
        if self.size > 1:
            sequence = np.random.SeedSequence(seed, spawn_key=(self.rank, step))
            torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0]))

    def agreed(self, asked: Callable[[], bool]) -> Callable[[], bool]:
        """Whether to stop, which all processes answer alike: once any of them is asked to."""
        if self.size == 1:
            return asked
        self._asked, self._any_asked = asked, False
        return lambda: self._any_asked

    def mean(
        self,
        loss: Tensor,
        gradients: Mapping[str, Tensor | None],
        parameters: Mapping[str, Tensor],
        weight: float,
    ) -> tuple[Tensor, dict[str, Tensor | None]]:
        """The loss and its gradients for the whole batch, in one exchange.

        Args:
            loss: Of the share, a scalar.
            gradients: Of the share, by parameter; None where it does not depend on one. Another
                share may: it stays None only where it is None in all of them.
            parameters: The parameters by name, the same in all processes.
            weight: That of `weight`.

        Raises:
            LostProcess: If a process is gone.
        """
        if self.size == 1:
            return loss, dict(gradients)
        learned = {name: p for name, p in parameters.items() if p.requires_grad}
        local = {name: gradients[name] for name in learned}
        parts = [torch.zeros_like(learned[n]) if g is None else g for n, g in local.items()]
        flat = torch.cat([part.reshape(-1).to(loss.dtype) for part in (*parts, loss)]).mul_(weight)
        present = tuple(gradient is not None for gradient in local.values())
        if present not in self._presences:
            self._presences[present] = flat.new_tensor(present)
        asked = flat.new_full((1,), float(self._asked()))
        flat = torch.cat([flat, self._presences[present], asked])
        with _exchange():
            dist.all_reduce(flat)
        self._reductions += 1
        if flat.device.type == "cpu" or self._reductions % _READ_STEPS == 0:
            self._any_asked = bool(flat[-1] > 0)
        *means, mean_loss, anywhere, _ = flat.split([*(p.numel() for p in parts), 1, len(parts), 1])
        # Reading waits for a GPU, so only where the answer is not known.
        there = [True] * len(parts) if all(present) else (anywhere > 0).tolist()
        mean = {
            name: value.view(part.shape).to(part.dtype)
            for name, value, part, any_share in zip(learned, means, parts, there, strict=True)
            if any_share
        }
        return mean_loss.view(()), {name: mean.get(name) for name in gradients}

    def copy_from_first(self, *tensors: Tensor) -> None:
        """Overwrites tensors with those of the first process.

        Raises:
            LostProcess: If a process is gone.
        """
        if self.size > 1:
            with _exchange():
                for tensor in tensors:
                    dist.broadcast(tensor.detach(), src=0)

    def text_of_first(self, text: Callable[[], str]) -> str:
        """Gives all processes a text that the first one makes; if it refuses, all do.

        Raises:
            InputError: If the first process did.
            LostProcess: If a process is gone.
        """
        if self.size == 1:
            return text()
        said: list[str] = ["", ""]
        if self.first:
            try:
                said = [text(), ""]
            except InputError as error:
                said = ["", str(error)]
        with _exchange():
            dist.broadcast_object_list(said, src=0)
        if said[1]:
            raise InputError(said[1])
        return said[0]

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Keeps all processes but the first from telling how far they are."""
        if self.first:
            yield
            return
        with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
            yield


def join(device: str) -> Ranks:
    """Meets the other processes of this run, where torchrun has started several.

    Args:
        device: `auto`, `cpu` or `cuda`; each process of a machine takes a GPU of its own.

    Raises:
        InputError: If there are too few GPUs, one of them is named, or the others cannot be
            reached.
    """
    if not dist.is_available() or ("RANK" not in os.environ and not dist.is_initialized()):
        return Ranks()
    if ":" in device:
        raise InputError(
            f"--device: expected auto, cpu or cuda with torchrun, which gives each process a GPU "
            f"of its own; got {device}"
        )
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        local, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local >= there:
            raise InputError(
                f"--nproc_per_node: expected at most {there}, the number of GPUs; got at least "
                f"{local + 1}; start fewer processes, or add --device cpu"
            )
        torch.cuda.set_device(local)
    if not dist.is_initialized():
        try:
            store, rank, size = next(iter(dist.rendezvous("env://")))
            dist.init_process_group(
                "nccl" if on_gpu else "gloo", store=store, rank=rank, world_size=size
            )
        except (RuntimeError, ValueError) as error:
            raise InputError(
                f"could not meet the other processes of the run ({reason(error)}); start them with "
                "torchrun"
            ) from error
        _stores.append(store)
        atexit.register(_leave)
    return Ranks(dist.get_rank(), dist.get_world_size())


def claims_message(message: str) -> bool:
    """Whether this process is the one to print a last message that others may have too."""
    if _stores:
        with suppress(RuntimeError):  # the store may have gone with a process that was lost
            _stores[0].set(_LAST_MESSAGE, message)
            return _stores[0].add(f"said {message}", 1) == 1
        return True
    return int(os.environ.get("RANK", "0")) == 0


_LAST_MESSAGE = "last message"


@contextmanager
def _exchange() -> Iterator[None]:
    """Raises `LostProcess` where an exchange fails, with the lost process's message if it had one.

    `claims_message` lets nobody print that a second time.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        message = (
            "another process of this run was lost; go on from the last checkpoint with "
            "--resume, with any number of processes"
        )
        with suppress(RuntimeError, IndexError):
            if _stores[0].check([_LAST_MESSAGE]):
                message = _stores[0].get(_LAST_MESSAGE).decode()
        raise LostProcess(message) from error


def _leave() -> None:
    with suppress(RuntimeError):
        dist.destroy_process_group()
