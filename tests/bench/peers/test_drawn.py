from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the drawn models are made with PyTorch")

from bench.peers import drawn  # noqa: E402


def test_shortcuts_select_and_pad():
    block = drawn.Block(2, 4, 2).eval()
    torch.nn.init.zeros_(block.bn2.weight)  # only the shortcut is left
    x = torch.rand(1, 2, 4, 4)
    y = block(x)
    assert torch.equal(y[:, :2], x[:, :, ::2, ::2]) and not y[:, 2:].any()
    assert [name for name, _ in block.named_parameters() if "conv" in name] == ["conv1.weight", "conv2.weight"]


def test_every_branch_carries_signal_once_settled():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.BatchNorm2d(5), torch.nn.ReLU())
    torch.nn.init.zeros_(net[1].weight)
    drawn._settle(net, 8, 1)
    assert not net.training and (net[1].weight > 0.4).all() and (net[1].running_var != 1).all()
    assert net(torch.randn(4, 3, 8, 8)).std() > 0.1


@pytest.mark.slow
def test_a_seed_gives_one_model(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    x = np.random.default_rng(0).normal(size=(3, 3, 32, 32)).astype(np.float32)
    scores = []
    for turn, seed in enumerate((0, 0, 1)):
        about = drawn.draw("pad", seed, str(tmp_path / f"{turn}.onnx"))
        assert about["size"] == 32 and 20e6 < about["parameters"] < 22e6
        session = onnxruntime.InferenceSession(str(tmp_path / f"{turn}.onnx"), providers=["CPUExecutionProvider"])
        scores.append(session.run(None, {"image": x})[0])
    assert scores[0].shape == (3, 10) and scores[0].std() > 0.01
    assert np.array_equal(scores[0], scores[1]) and not np.allclose(scores[0], scores[2])
