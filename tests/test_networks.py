"""Any network as a classifier: the same logits, the head's input as features."""

import pandas as pd
import pytest
import torch
import torchvision
from torch import nn

from ascood.detectors import list_detectors
from ascood.evaluation import evaluate, extract
from ascood.models import (
    Classifier, create_backbone, has_imagenet_weights, input_scaling, load_classifier, save_classifier)
from ascood.training import ASCOOD, TrainConfig, train
from conftest import make_small

OF_STAGES = {"MDSEns", "Gram", "RankFeat"}
FIXED = {name: {} for name in list_detectors()} | {
    "KNN": {"k": 3}, "NNGuide": {"k": 3}, "ODIN": {"eps": 0.001, "temperature": 10},
    "i-ODIN": {"eps": 0.001, "temperature": 10}}


class Two(nn.Module):
    "A network inside another one, whose layers have no names that tell."

    def __init__(self, after=nn.Identity()):
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.a, self.encoder.b = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1)
        self.auxiliary, self.last, self.scores = nn.Linear(16, 2), nn.Linear(16, 3, bias=False), nn.Linear(3, 3)
        self.after = after

    def forward(self, x):
        return self.after(self.last(self.encoder.b(self.encoder.a(x).relu()).relu().mean((2, 3))))


def timm_network(name, **options):
    return pytest.importorskip("timm").create_model(name, num_classes=3, **options)


NETWORKS = {  # name: the network, its head
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=3), "fc"),
    "mobilenet_v2": (lambda: torchvision.models.mobilenet_v2(num_classes=3), "classifier.1"),
    "mobilenet_v3_small": (lambda: torchvision.models.mobilenet_v3_small(num_classes=3), "classifier.3"),
    "vit_b_16": (lambda: torchvision.models.vit_b_16(image_size=32, num_classes=3), "heads.head"),
    "timm/test_resnet": (lambda: timm_network("test_resnet"), "fc"),
    "timm/test_vit": (lambda: timm_network("test_vit", img_size=32), "head"),
}


@pytest.fixture(scope="module", params=NETWORKS)
def wrapped(request):
    torch.manual_seed(0)
    make, head = NETWORKS[request.param]
    network = make().eval().requires_grad_(False)
    return network, Classifier.wrap(network), network.get_submodule(head)


def test_logits_and_features_are_the_networks(wrapped):
    network, model, head = wrapped
    x, read = torch.randn(2, 3, 32, 32), []
    hook = head.register_forward_hook(lambda layer, given, found: read.append(given[0]))
    expected = network(x)
    hook.remove()
    torch.testing.assert_close((model(x), model.features(x)), (expected, read[0]), rtol=1e-4, atol=1e-6)
    assert model.num_classes == 3 and not model.training


def test_every_detector_scores_it_or_says_why_not(wrapped):
    _, model, _ = wrapped
    small = make_small(64 if model.backbone.ends else 32)
    seen = extract(model, small.train)
    means = torch.stack([seen.features[seen.labels == c].mean(0) for c in range(3)])
    model.head.weight.copy_(2 * means)  # the nearest mean: every class has images that are classified well, for SHE
    model.head.bias.copy_(-means.square().sum(1))
    table = evaluate(model, small, FIXED)
    gaps = {name: gap for name, gap in zip(table.detector, table.gap) if gap}
    if not model.backbone.ends:
        assert OF_STAGES <= gaps.keys() and all("several stages" in gaps.pop(name) for name in OF_STAGES)
    assert gaps == {}
    assert table[table.gap == ""].auroc.between(0, 100).all() and set(table.detector) == {*FIXED}


def test_an_own_network_with_a_named_head():
    torch.manual_seed(0)
    network = Two().eval()
    model, x = Classifier.wrap(network, "last"), torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model(x), network(x))
    assert network.last.bias is None


@pytest.mark.parametrize("network, names, words", [
    (Two, {}, "does not give the network's answer"),  # the last linear layer is never called
    (lambda: Two(nn.Softmax(1)), {"head": "last"}, "does not give the network's answer"),
    (Two, {"head": "lst"}, "no linear layer lst; did you mean 'last'"),
    (lambda: nn.Sequential(nn.Conv2d(3, 2, 1)), {}, "no linear layer that could be its head"),
    (lambda: torchvision.models.vit_b_16(image_size=32), {"pixels": 64}, "fails on images .* give the side"),
])
def test_what_cannot_be_taken_apart_is_one_line(network, names, words):
    with pytest.raises(ValueError, match=words) as caught:
        Classifier.wrap(network(), **names)
    assert "\n" not in str(caught.value)


def test_a_file_brings_back_a_network_that_has_a_name(tmp_path):
    torch.manual_seed(0)
    network = torchvision.models.mobilenet_v2().eval().requires_grad_(False)
    model, x = Classifier.wrap(network), torch.randn(2, 3, 64, 64)
    with pytest.raises(ValueError, match="say which name makes it"):
        save_classifier(model, tmp_path / "model.safetensors")
    again = load_classifier(save_classifier(model, tmp_path / "model.safetensors", "torchvision/mobilenet_v2"))
    torch.testing.assert_close(again.requires_grad_(False)(x), network(x))


def test_timms_network_by_its_name(tmp_path, small):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    network, x = timm.create_model("test_resnet").eval().requires_grad_(False), torch.randn(2, 3, 64, 64)
    torch.save(network.state_dict(), tmp_path / "net.pth")
    backbone = create_backbone("timm/test_resnet", tmp_path / "net.pth").eval().requires_grad_(False)
    torch.testing.assert_close(network.fc(backbone(x)), network(x))
    again = load_classifier(save_classifier(Classifier.wrap(network), tmp_path / "model.safetensors"))
    torch.testing.assert_close(again.requires_grad_(False)(x), network(x))
    assert has_imagenet_weights("timm/test_resnet") and len(input_scaling("timm/test_resnet")[0]) == 3
    with pytest.raises(ValueError, match="timm has no network 'test_resne'; did you mean 'test_resnet'"):
        create_backbone("timm/test_resne")
    config = TrainConfig(backbone="timm/test_resnet", pretrained=tmp_path / "net.pth", epochs=1, batch_size=12)
    run = train(ASCOOD(), small, config, tmp_path / "run", progress=False)
    assert load_classifier(run.checkpoint).backbone.name == "timm/test_resnet" and pd.notna(run.history.loss).all()
