"""One place chooses the device and the dtype, says why once, and refuses what is not there."""

import sys
from pathlib import Path

import pytest
import torch

from minikontext import layers
from minikontext.errors import ConfigError
from minikontext.runtime import attention, device

sys.path.insert(0, str(Path(__file__).parent))
from children import Program


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    monkeypatch.delenv("MINIKONTEXT_DEVICE", raising=False)
    monkeypatch.delenv("MINIKONTEXT_DTYPE", raising=False)
    monkeypatch.setattr(device, "_announced", set())


@pytest.fixture
def cpu_only(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def test_cpu_and_float32_without_a_gpu(cpu_only):
    assert device.select_device() == (torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("hardware", [True, False])
def test_cuda_comes_first_with_bfloat16_where_it_has_it(monkeypatch, hardware):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A GPU")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: hardware)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    dtype = torch.bfloat16 if hardware else torch.float32
    assert device.select_device() == (torch.device("cuda"), dtype)


def test_mps_comes_before_the_cpu(cpu_only, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert device.select_device() == (torch.device("mps"), torch.float32)


def test_argument_wins_over_environment_over_choice(cpu_only, monkeypatch):
    monkeypatch.setenv("MINIKONTEXT_DTYPE", "bf16")
    monkeypatch.setenv("MINIKONTEXT_DEVICE", "cpu")
    assert device.select_device() == (torch.device("cpu"), torch.bfloat16)
    assert device.select_device(dtype=torch.float32)[1] == torch.float32
    monkeypatch.setenv("MINIKONTEXT_DEVICE", "nonsense")
    assert device.select_device("cpu")[0] == torch.device("cpu")


LINE = "device: cpu (no GPU found), dtype: float32 (exact everywhere)"


def test_the_choice_and_its_reason_are_logged_once(cpu_only, caplog):
    caplog.set_level("INFO", "minikontext")
    device.select_device()
    device.select_device()
    assert caplog.messages == [LINE]


@pytest.mark.parametrize(
    ("first", "out", "err"),
    [
        ("", "", ""),
        ("import logging; logging.basicConfig(level='INFO')", "", LINE),
        ("from minikontext.runtime import log; log.show(); log.show()", LINE, ""),
    ],
)
def test_a_program_is_told_what_it_asked_for(first, out, err):
    code = f"{first}\nfrom minikontext.runtime.device import select_device as s; s()"
    program = Program("-c", code, CUDA_VISIBLE_DEVICES="", MINIKONTEXT_DEVICE="")
    said, told = program.communicate()
    assert program.returncode == 0, told
    assert said.count(LINE) == bool(out) and told.count(LINE) == bool(err)
    assert bool(said) == bool(out)


@pytest.mark.parametrize("name", ["cuda", "cuda:3", "mps", "nonsense", "xpu"])
def test_a_device_that_is_not_there(cpu_only, name):
    with pytest.raises(ConfigError):
        device.select_device(name)


@pytest.mark.parametrize("dtype", ["float16", torch.float16, "int8", torch.int64, "nonsense"])
def test_a_dtype_that_cannot_hold_the_model(cpu_only, dtype):
    with pytest.raises(ConfigError, match="overflows"):
        device.select_device("cpu", dtype)


@pytest.mark.parametrize("name", ["float16", "fp16", "nonsense"])
def test_the_environment_is_read_by_one_rule(cpu_only, monkeypatch, name):
    """What editing refuses, training refuses, too: it does not go on in another dtype."""
    monkeypatch.setenv("MINIKONTEXT_DTYPE", name)
    for read in (device.select_device, lambda: device.in_bfloat16(torch.device("cpu"))):
        with pytest.raises(ConfigError, match=f"MINIKONTEXT_DTYPE='{name}' is not supported"):
            read()


@pytest.mark.parametrize("name", ["BF16", "bfloat16", " bfloat16 ", "BFloat16"])
def test_a_name_of_a_dtype_means_the_same_everywhere(cpu_only, monkeypatch, name):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {})
    monkeypatch.setenv("MINIKONTEXT_DTYPE", name)
    assert device.select_device()[1] is torch.bfloat16
    assert device.in_bfloat16(torch.device("cpu"))


def test_a_wrong_environment_is_refused(cpu_only, monkeypatch):
    monkeypatch.setenv("MINIKONTEXT_DEVICE", "cuda")
    with pytest.raises(ConfigError, match="0 CUDA"):
        device.select_device()


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("known", [{"avx512_bf16": True}, {"avx512_bf16": False, "avx2": True}])
def test_mixed_precision_is_bfloat16_only_if_wanted_and_there(monkeypatch, wanted, known):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known)
    a = torch.ones(2, 2)
    with device.mixed_precision(torch.device("cpu"), wanted) as number:
        assert (a @ a).dtype == number
    assert number == (torch.bfloat16 if wanted and known["avx512_bf16"] else torch.float32)


def test_flash_attention_3_is_not_used_where_it_is_not():
    assert not attention.use_flash_attention_3(torch.device("cpu"))


@pytest.mark.parametrize("shape", [(2, 3, 17, 8), (1, 1, 40, 24)])
def test_training_in_bfloat16_has_the_attention_of_the_kernel(shape):
    torch.manual_seed(0)
    given = [torch.randn(shape) for _ in range(3)]
    found = []
    for dtype, learns in ((torch.float32, True), (torch.bfloat16, True), (torch.bfloat16, False)):
        q, k, v = (x.detach().to(dtype).requires_grad_(learns) for x in given)
        with _Kernels() as kernels:
            out = layers.attend(q, k, v)
        assert kernels.used == (not (learns and dtype is torch.bfloat16))
        if learns:
            out.float().square().sum().backward()
            found.append([x.float() for x in (out.detach(), q.grad, k.grad, v.grad)])
    for exact, got in zip(*found, strict=True):
        assert (got - exact).norm() < 0.02 * exact.norm()  # bfloat16 has 8 digits


class _Kernels(torch.overrides.TorchFunctionMode):
    """Sees whether attention goes through PyTorch's kernel."""

    used = False

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.used |= func is torch.nn.functional.scaled_dot_product_attention
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("insisted", ["bfloat16", "float32"])
@pytest.mark.parametrize("known", [{"avx512_bf16": True}, {"avx512_bf16": False}])
def test_the_environment_decides_on_bfloat16_in_training(monkeypatch, insisted, known):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known)
    monkeypatch.setenv("MINIKONTEXT_DTYPE", insisted)
    assert device.in_bfloat16(torch.device("cpu")) == (insisted == "bfloat16")
    assert not device.in_bfloat16(torch.device("cpu"), wanted=False)


def test_a_kernel_that_cannot_be_made_leaves_nothing_behind():
    own, q = layers.attend, torch.rand(1, 1, 2, 4)

    def broken(_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), attention.instead("attend", broken):
        pass
    assert layers.attend is own
    with attention.instead("attend", lambda _: lambda q, k, v: v):
        with pytest.raises(ZeroDivisionError), attention.instead("attend", broken):
            pass
        assert layers.attend(q, q, q) is q
    assert layers.attend is own
