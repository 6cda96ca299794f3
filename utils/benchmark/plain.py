"""How existing implementations train, which the benchmark compares with; nothing else uses it.

Worker processes with PIL transforms, float32 (TF32 on CUDA), channels-first, masks multiplied in the forward pass, α
set layer by layer, and a wait for the device in every step.
"""

from dataclasses import replace
from itertools import chain, repeat

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader
from torchvision import transforms

from data.batches import evaluation_batches
from data.dataset import Dataset
from utils.benchmark.workload import BATCH_SIZE, LR, RECIPE, Workload
from utils.training.evaluation import evaluate
from utils.training.fast_path import in_tf32


class PilImages:
    """One training image at a time, through torchvision's transforms of PIL images."""

    def __init__(self, dataset: Dataset):
        self.split = dataset.train
        size, augmentation = dataset.image_size, dataset.augmentation
        crop = transforms.RandomCrop(size, padding=augmentation.crop_padding)
        if augmentation.crop_areas:
            crop = transforms.RandomResizedCrop(size, scale=augmentation.crop_areas)
        normalization = transforms.Normalize(dataset.mean.tolist(), dataset.std.tolist())
        flip, to_tensor = transforms.RandomHorizontalFlip(), transforms.ToTensor()
        self.transform = transforms.Compose([transforms.ToPILImage(), crop, flip, to_tensor, normalization])

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.split.images[index].permute(2, 0, 1)), int(self.split.labels[index])


class PlainTraining:
    """Existing implementations' step on the next batch."""

    def __init__(self, workload: Workload):
        self.dataset, self.device, blueprint = workload.dataset, workload.device, workload.blueprint
        network = blueprint.build(self.device)
        self.network = network.to(memory_format=torch.contiguous_format).train()
        self.norms = [module for module in self.network.modules() if isinstance(module, nn.BatchNorm2d)]
        for module in self.norms:
            _interpolate_in_forward(module)
        for name, mask in workload.masks().items():
            layer = self.network.get_submodule(name.removesuffix(".weight"))
            prune.custom_from_mask(layer, "weight", mask.to(self.device))
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), LR, RECIPE.momentum, weight_decay=RECIPE.weight_decay
        )
        cuda, workers = self.device.type == "cuda", workload.workers
        processes = {"num_workers": workers, "persistent_workers": workers > 0, "pin_memory": cuda}
        loader = DataLoader(PilImages(self.dataset), BATCH_SIZE, shuffle=True, drop_last=True, **processes)
        self.batches = chain.from_iterable(repeat(loader))
        self.step = in_tf32(self._step) if cuda else self._step
        self.predict = in_tf32(self.network) if cuda else self.network  # cuDNN's default

    def __call__(self) -> None:
        self.step(*next(self.batches), torch.rand(()))

    def _step(self, images: Tensor, labels: Tensor, alpha: Tensor) -> None:
        images, labels = images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
        for module in self.norms:
            module.alpha = alpha.item()
        outputs = self.network(images)
        loss = F.cross_entropy(outputs, labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        loss.item()
        (outputs.argmax(1) == labels).sum().item()

    def evaluate(self) -> None:
        """On the device, as in the other arms."""
        test_only = replace(self.dataset, train=self.dataset.test).to(self.device)
        evaluate(self.network, evaluation_batches(test_only, test_only.test), self.predict)
        self.network.train()


def _interpolate_in_forward(module: nn.BatchNorm2d) -> None:
    weight, bias = module.weight.detach().clone(), module.bias.detach().clone()

    def forward(images: Tensor) -> Tensor:
        scale = module.alpha * module.weight + (1 - module.alpha) * weight
        shift = module.alpha * module.bias + (1 - module.alpha) * bias
        statistics = module.running_mean, module.running_var
        return F.batch_norm(images, *statistics, scale, shift, module.training, module.momentum, module.eps)

    module.forward = forward
