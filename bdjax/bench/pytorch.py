"""The same network and recipe in PyTorch: as the reference benchmark trains, and tuned for one model at a time.

`plain`: float32, batches from a DataLoader that crops, mirrors and converts image by image in worker processes, the
loss read after every step. `tuned`: data on the device, augmentation by the batch, channels last, compiled, and on a
GPU bfloat16 where PyTorch chooses to and a fused optimizer. `graphs`: the same, compiled into CUDA graphs, so that the
host starts few kernels.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch.nn import functional

from bdjax.bench import torch_networks
from bdjax.study.work import Work


def cases(work: Work, names: Sequence[str]) -> list[tuple[str, int, Callable[[int], None], float, int | None]]:
    """(name, batch, call, seconds of compiling, bytes) of each named loop; none for a network that is not there."""
    loops = {"plain": _plain, "tuned": _tuned, "graphs": partial(_tuned, mode="reduce-overhead")}
    if work.model.name not in ("small_cnn", "preact_resnet18", "resnet18") or work.dataset.shape[2] != 3:
        return []
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch = min(work.recipe.spec.static["batch"], work.dataset.train.label.size)
    return [(name, batch, *loops[name](work, device, batch)) for name in names]


def _network(work: Work, device: torch.device) -> torch.nn.Module:
    static = {name: value for name, value in work.model.static.items() if name != "precision"}
    if work.model.name == "small_cnn":
        return torch_networks.small_cnn(classes=work.dataset.count, **static).to(device)
    return torch_networks.network(work.model.name, classes=work.dataset.count, **static).to(device)


def _optimizer(work: Work, network: torch.nn.Module, **options) -> torch.optim.SGD:
    given = work.recipe.spec.traced
    rates = {"lr": given["learning_rate"], "momentum": given["momentum"], "weight_decay": given["weight_decay"]}
    return torch.optim.SGD(network.parameters(), **rates, **options)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


class Images(torch.utils.data.Dataset):
    """Training images one by one, augmented as bdjax augments them."""

    def __init__(self, work: Work):
        self.image, self.label = np.asarray(work.dataset.train.image), np.asarray(work.dataset.train.label)
        self.padding, self.flip = work.dataset.padding, work.dataset.flip
        self.mean, self.std = (np.array(work.dataset.mean, np.float32), np.array(work.dataset.std, np.float32))

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image, pad = self.image[index], self.padding
        top, left = torch.randint(0, 2 * pad + 1, (2,)).tolist()
        image = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))[
            top : top + image.shape[0], left : left + image.shape[1]
        ]
        if self.flip and torch.rand(()) < 0.5:
            image = image[:, ::-1]
        image = (image.astype(np.float32) / 255 - self.mean) / self.std
        return torch.from_numpy(image.transpose(2, 0, 1).copy()), int(self.label[index])


def _plain(work: Work, device: torch.device, batch: int):
    network = _network(work, device).train()
    optimizer, workers = _optimizer(work, network), min(4, os.cpu_count() or 1)
    loader = torch.utils.data.DataLoader(
        Images(work),
        batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=True,
        multiprocessing_context="spawn",
    )

    def batches() -> Iterator:
        while True:
            yield from loader

    source = batches()

    def call(steps: int) -> None:
        for _ in range(steps):
            image, label = next(source)
            loss = functional.cross_entropy(network(image.to(device)), label.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
        _finish(device)

    return call, 0.0, None


def _tuned(work: Work, device: torch.device, batch: int, mode: str = "default"):
    data, cuda = work.dataset, device.type == "cuda"
    network = _network(work, device).train().to(memory_format=torch.channels_last)
    optimizer = _optimizer(work, network, fused=cuda)
    mean, std = (torch.tensor(value, device=device).view(1, -1, 1, 1) for value in (data.mean, data.std))
    image = torch.from_numpy(np.asarray(data.train.image)).to(device).permute(0, 3, 1, 2)
    label = torch.from_numpy(np.asarray(data.train.label)).long().to(device)

    @partial(torch.compile, mode=mode)
    def loss_of(image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=cuda):
            return functional.cross_entropy(network((image / 255 - mean) / std), label)

    def call(steps: int) -> None:
        for _ in range(steps):
            rows = torch.randint(0, len(label), (batch,), device=device)
            chosen = augmented(image[rows].float(), data.padding, data.flip).contiguous(
                memory_format=torch.channels_last
            )
            optimizer.zero_grad(set_to_none=True)
            torch.compiler.cudagraph_mark_step_begin()
            loss_of(chosen, label[rows]).backward()
            optimizer.step()
        _finish(device)

    begun = time.perf_counter()
    call(1)
    return call, time.perf_counter() - begun, torch.cuda.max_memory_allocated() if cuda else None


def augmented(image: torch.Tensor, padding: int, flip: bool) -> torch.Tensor:
    """Random crops of a batch (b, channels, height, width) after zero padding, and mirrored ones, as one gather."""
    count, _, height, width = image.shape
    padded = functional.pad(image, (padding,) * 4)
    row = torch.randint(0, 2 * padding + 1, (count, 1), device=image.device) + torch.arange(height, device=image.device)
    column = torch.randint(0, 2 * padding + 1, (count, 1), device=image.device)
    column = column + torch.arange(width, device=image.device)
    if flip:
        turned = torch.rand(count, 1, device=image.device) < 0.5
        column = torch.where(turned, column.flip(1), column)
    index = torch.arange(count, device=image.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[index, row[:, :, None], column[:, None, :]].permute(0, 3, 1, 2)
