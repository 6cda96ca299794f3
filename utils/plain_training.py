"""How existing implementations train, which the benchmark compares with; nothing else uses it.

Worker processes with PIL transforms, float32 (TF32 on CUDA), channels-first, masks multiplied in the forward pass, α
set layer by layer, and a wait for the device in every step.
"""

from collections.abc import Iterator
from itertools import count

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms
from torchvision.transforms.functional import to_pil_image

from data.dataset import Dataset
from utils.blueprint import Blueprint
from utils.pruning import Masks


class PilImages(TorchDataset):
    """The plain arm's data: one image at a time through torchvision's transforms of PIL images."""

    def __init__(self, dataset: Dataset):
        self.split = dataset.train
        size, augmentation = dataset.image_size, dataset.augmentation
        if augmentation.crop_areas is None:
            crop = transforms.RandomCrop(size, padding=augmentation.crop_padding)
        else:
            crop = transforms.RandomResizedCrop(size, scale=augmentation.crop_areas)
        normalization = transforms.Normalize(dataset.mean.tolist(), dataset.std.tolist())
        self.transform = transforms.Compose(
            [crop, transforms.RandomHorizontalFlip(), transforms.ToTensor(), normalization]
        )

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = to_pil_image(self.split.images[index].permute(2, 0, 1))
        return self.transform(image), int(self.split.labels[index])


class PlainTraining:
    """Existing implementations' step. Layers carry mask and α, and multiply and interpolate in their forward pass."""

    def __init__(
        self, blueprint: Blueprint, masks: Masks, dataset: Dataset, device: torch.device, batch_size: int, workers: int
    ):
        torch.set_float32_matmul_precision("highest")
        initial = blueprint.initialize(0)
        self.network = blueprint.build(initial, masks, device).to(memory_format=torch.contiguous_format).train()
        self.device, self.predict = device, self.network
        for name, mask in masks.items():
            _mask_in_forward(self.network.get_submodule(name.removesuffix(".weight")), mask.to(device))
        self.norms = [m for m in self.network.modules() if isinstance(m, nn.BatchNorm2d)]
        for module in self.norms:
            _interpolate_in_forward(module)
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        self.loader = DataLoader(
            PilImages(dataset),
            batch_size=batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=device.type == "cuda",
        )
        self.batches = self._endless()

    def _endless(self) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in count():
            yield from self.loader

    def run(self, steps: int) -> None:
        tf32 = self.device.type == "cuda"
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
        for _ in range(steps):
            images, labels = next(self.batches)
            images, labels = images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
            alpha = torch.rand(()).item()
            for module in self.norms:
                module.alpha = alpha
            outputs = self.network(images)
            loss = F.cross_entropy(outputs, labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            loss.item()
            (outputs.argmax(1) == labels).sum().item()
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def _mask_in_forward(module: nn.Module, mask: Tensor) -> None:
    mask = mask.float()
    if isinstance(module, nn.Conv2d):
        module.forward = lambda images: module._conv_forward(images, module.weight * mask, module.bias)
    else:
        module.forward = lambda features: F.linear(features, module.weight * mask, module.bias)


def _interpolate_in_forward(module: nn.BatchNorm2d) -> None:
    weight, bias = module.weight.detach().clone(), module.bias.detach().clone()

    def forward(images: Tensor) -> Tensor:
        scale = module.alpha * module.weight + (1 - module.alpha) * weight
        shift = module.alpha * module.bias + (1 - module.alpha) * bias
        statistics_of_layer = module.running_mean, module.running_var
        return F.batch_norm(images, *statistics_of_layer, scale, shift, module.training, module.momentum, module.eps)

    module.forward = forward
