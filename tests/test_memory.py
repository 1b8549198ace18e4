"""Memory plans: full size predicted on the meta device, and tiny models that really do it."""

import copy
import math

import psutil
import pytest
import torch

from minikontext.autoencoder import AutoEncoder, AutoEncoderConfig
from minikontext.errors import ConfigError, NotEnoughMemoryError
from minikontext.pipeline import KontextPipeline
from minikontext.runtime import memory_plan, offload, quantization, step_cache
from minikontext.transformer import KontextTransformer, TransformerConfig

GB = memory_plan.GB


@pytest.fixture(scope="module")
def plans():
    """FLUX.1 Kontext at 1024 × 1024 with one context; the encoders' bytes are those of T5-XXL."""
    with torch.device("meta"):
        transformer = KontextTransformer(TransformerConfig.flux_dev())
        autoencoder = AutoEncoder(AutoEncoderConfig.flux())
    encoders = memory_plan.Encoders(total=9_770_000_000, largest=263_000_000)
    return memory_plan.predict(transformer, autoencoder, encoders, torch.bfloat16)


@pytest.mark.parametrize(
    ("free", "name"), [(40, "resident"), (28, "encoders"), (18, "8-bit"), (12, "4-bit")]
)
def test_a_gpu_of_this_size_gets_this_plan(plans, free, name, monkeypatch):
    monkeypatch.setattr(memory_plan, "import_torchao", lambda: None)
    assert memory_plan.choose(plans, free * GB).name == name
    assert memory_plan.choose(plans, 6 * GB).name == "stream"


def test_without_torchao_streaming_takes_the_place_of_quantising(plans, monkeypatch):
    monkeypatch.setattr(memory_plan, "has_torchao", lambda: False)
    assert memory_plan.choose(plans, 12 * GB).name == "stream"


def test_what_cannot_fit_is_refused_with_the_arithmetic(plans):
    with pytest.raises(NotEnoughMemoryError, match=r"3\.0 GB are free[^$]*transformer 23\.8 \+"):
        memory_plan.choose(plans, 3 * GB)
    with pytest.raises(NotEnoughMemoryError, match="resident: 3"):
        memory_plan.choose(plans, 30 * GB, "resident")
    with pytest.raises(ConfigError, match="Use one of auto, resident"):
        memory_plan.choose(plans, 80 * GB, "half")


def test_the_parts_of_a_plan_are_counted(plans):
    resident, *_, four, stream = plans
    assert resident.transformer == 2 * 11_901_408_320
    assert resident.autoencoder == 2 * 83_819_683
    block = 2 * 339_831_296
    assert 2 * block < stream.transformer < 2 * block + 2 * 70_000_000
    assert 6.0e9 < four.transformer < 6.7e9


def test_activations_are_the_most_that_is_alive_at_once():
    def run():
        a = torch.empty(1000, device="meta")  # 4000 bytes
        b = a + 1  # 8000 alive
        del a
        c = b * 2
        d = c.view(10, 100)  # a view costs nothing
        del b, c
        return torch.cat((d, d)).sum()  # 4000 + 8000 + 4 alive

    weight = torch.empty(10**6, device="meta")
    assert memory_plan.peak_bytes(run) == 12_004
    assert memory_plan.peak_bytes(lambda: weight.view(-1)[:5] + 1) == 20


def test_activations_grow_with_the_picture_and_not_with_the_depth(plans):
    del plans
    config = TransformerConfig.toy()
    with torch.device("meta"):
        model = KontextTransformer(config)
    small, large = (memory_plan.velocity_bytes(model, torch.float32, (n, n)) for n in (512, 1024))
    assert 3 < large / small < 5


# ---- what is free


def group(mount, place, limit, used, cache=None, version=2):
    """A control group's files."""
    folder = mount / place
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.max", "memory.current") if version == 2 else OLD_NAMES
    for name, value in zip(names, (limit, used)):
        (folder / name).write_text(f"{value}\n")
    if cache is not None:
        entry = "inactive_file" if version == 2 else "total_inactive_file"
        (folder / "memory.stat").write_text(f"anon 5\n{entry} {cache}\n")


OLD_NAMES = ("memory.limit_in_bytes", "memory.usage_in_bytes")
SECOND, FIRST = "0::/a/b\n", "4:cpu:/x\n3:blkio,memory:/a/b\n"


@pytest.mark.parametrize(
    ("groups", "files", "free"),
    [
        (SECOND, [], math.inf),
        (SECOND, [("a/b", "max", 70)], math.inf),
        (SECOND, [("a/b", 100, 70)], 30),
        (SECOND, [("a/b", 100, 70, 25)], 55),
        (SECOND, [("a", 90, 80), ("a/b", 100, 70)], 10),
        (SECOND, [("", 90, 85), ("a/b", "max", 70)], 5),  # a container sees its own at the root
        (SECOND, [("a/b", 100, 170)], 0),
        (FIRST, [("memory/a/b", 100, 70, 5, 1)], 35),
        (FIRST, [("memory", 100, 90, None, 1)], 10),
        (FIRST, [("memory/x", 100, 90, None, 1)], math.inf),  # of another controller
        ("", [("", 100, 90)], math.inf),
    ],
)
def test_limits_of_control_groups_are_held(tmp_path, groups, files, free):
    (tmp_path / "self").write_text(groups)
    for place, *numbers in files:
        group(tmp_path / "sys", place, *numbers)
    assert memory_plan.cgroup_bytes(tmp_path / "self", tmp_path / "sys") == free
    assert memory_plan.cgroup_bytes(tmp_path / "no", tmp_path / "sys") == math.inf


def test_a_cpu_offers_what_is_free_and_not_what_others_hold(monkeypatch):
    cpu = torch.device("cpu")
    assert 0 < memory_plan.available_bytes(cpu) < psutil.virtual_memory().total
    monkeypatch.setattr(memory_plan, "cgroup_bytes", lambda: 5.0)
    assert memory_plan.available_bytes(cpu) == 5.0


# ---- tiny models that do it

TINY = TransformerConfig(16, 16, 12, 20, 64, 4.0, 2, 2, 2, (8, 12, 12), 10_000, True, False)


def model():
    torch.manual_seed(0)
    return KontextTransformer(TINY).eval()


@torch.no_grad()
def velocity(model, called=None):
    draw = torch.Generator().manual_seed(1)
    shapes = ((6, 16), (3, 20), (12,))
    dtype = model.img_in.weight.dtype
    img, txt, pooled = (torch.randn(1, *s, generator=draw).to(dtype) for s in shapes)
    ids = torch.zeros(6, 3), torch.zeros(3, 3)
    return (called or model)(img, ids[0], txt, ids[1], torch.tensor([0.5]), pooled)


@pytest.mark.parametrize("ahead", [False, True])
def test_streamed_blocks_give_the_same_numbers_and_stay_on_the_host(ahead):
    expected, streamed = velocity(model()), model()
    blocks = offload.transformer_blocks(streamed)
    host = [p.data_ptr() for block in blocks for p in block.parameters()]
    offload.stream(blocks, "cpu", torch.float32, streamed if ahead else None)
    assert torch.equal(velocity(streamed), expected)
    assert torch.equal(velocity(streamed), expected)
    assert host == [p.data_ptr() for block in blocks for p in block.parameters()]


def test_streamed_blocks_work_in_another_dtype_than_they_are_stored_in():
    rounded, streamed = model(), model()
    blocks = offload.transformer_blocks(streamed)
    for block in (*blocks, *offload.transformer_blocks(rounded)):
        block.bfloat16()
    offload.stream(blocks, "cpu", torch.float32)
    assert torch.equal(velocity(streamed), velocity(rounded.float()))
    assert {p.dtype for p in blocks[0].parameters()} == {torch.bfloat16}


def test_one_streamed_block_is_on_the_device_at_a_time():
    streamed, loaded = model(), []
    blocks = offload.transformer_blocks(streamed)

    def count(module, inputs):
        dtypes = [next(block.parameters()).dtype for block in blocks]
        loaded.append(dtypes.count(torch.float32))

    for block in blocks:
        block.bfloat16()
    offload.stream(blocks, "cpu", torch.float32)
    for block in blocks:
        linear(block).register_forward_pre_hook(count)
    velocity(streamed)
    assert loaded == [1] * len(blocks)


def test_the_next_block_is_prefetched_when_one_is_at_work(monkeypatch):
    copied, copy = [], offload.Offload.copy
    monkeypatch.setattr(offload.Offload, "copy", lambda o, n: copied.append(n) or copy(o, n))
    for ahead, due in ((False, 2), (True, 3)):
        streamed = model()
        blocks = offload.transformer_blocks(streamed)
        offload.stream(blocks, "cpu", torch.float32, streamed if ahead else None)
        copied.clear()
        blocks[2].register_forward_hook(lambda *_: copied.append("stop"))
        velocity(streamed)
        assert [n for n in copied if n != "stop"] == [0, 1, 2, 3]  # each is copied once
        assert copied.index("stop") == due + 1


def test_what_was_prefetched_for_a_broken_pass_makes_room_for_the_next():
    streaming = offload.Offload(torch.device("cpu"), None, ahead=True)
    blocks = offload.transformer_blocks(model())
    for block in blocks:
        streaming.add(block)
    streaming.prefetch(2)
    assert list(streaming.prefetched) == [2]
    streaming.load(0)
    assert not streaming.prefetched


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["before", "inside", "after"])
def test_a_pass_that_breaks_off_leaves_no_weights_on_the_device(ahead, error, where):
    expected, streamed = velocity(model()), model()
    blocks = offload.transformer_blocks(streamed)
    host = [p.data_ptr() for block in blocks for p in block.parameters()]
    within = streamed if ahead else None
    offload.stream(blocks, "cpu", torch.float64, within)  # of another dtype is another tensor

    def fail(*_):
        raise error

    place = linear(blocks[1]) if where == "inside" else blocks[1]
    if where == "after":
        hook = place.register_forward_hook(fail)
    else:
        hook = place.register_forward_pre_hook(fail)
    with pytest.raises(type(error)):
        velocity_64(streamed)
    assert host == [p.data_ptr() for block in blocks for p in block.parameters()]
    assert not blocks[0].forward.offload.prefetched
    hook.remove()
    found = velocity_64(streamed)
    assert torch.allclose(found, expected.double(), atol=1e-4)
    assert host == [p.data_ptr() for block in blocks for p in block.parameters()]


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
def test_a_pass_with_a_step_cache_that_breaks_off_leaves_no_weights_either(error, monkeypatch):
    """It calls the blocks by itself; here the error comes between two of them."""
    streamed = model().eval()
    cached = step_cache.CachedTransformer(streamed, step_cache.StepCache())
    blocks = offload.transformer_blocks(streamed)
    offload.stream(blocks, "cpu", torch.float32, streamed)
    there = []

    def fail(*_):
        there.extend(blocks[0].forward.offload.prefetched)
        raise error

    monkeypatch.setattr(cached, "_hardly_changed", fail)
    with pytest.raises(type(error)):
        velocity(streamed, cached)
    assert there == [1] and not blocks[0].forward.offload.prefetched


def test_a_copy_of_a_streamed_net_forgets_what_was_prefetched_for_itself():
    streamed = model()
    offload.stream(offload.transformer_blocks(streamed), "cpu", torch.float32, streamed)
    twin = copy.deepcopy(streamed)
    assert twin.forward.net is twin
    assert torch.equal(velocity(twin), velocity(streamed))


def linear(block):
    """A part that works when the block does."""
    return next(part for part in block.modules() if isinstance(part, torch.nn.Linear))


def velocity_64(streamed):
    """A velocity in float64, with blocks that stay in float32 at home."""
    for name, part in streamed.named_children():
        if not name.endswith("blocks"):
            part.double()
    return velocity(streamed)


def test_a_hook_of_the_user_is_no_streaming(tmp_path):
    watched, seen = model(), []
    blocks = offload.transformer_blocks(watched)
    blocks[0].register_forward_pre_hook(lambda module, inputs: seen.append(module))
    assert not offload.is_streamed(watched)
    offload.move([watched], "cpu")
    offload.compile_blocks(watched, backend="eager")
    velocity(watched)
    assert seen == [blocks[0]]
    offload.stream(blocks, "cpu")
    assert offload.is_streamed(watched)
    with pytest.raises(ConfigError, match="Streamed weights stay"):
        offload.move([watched], "cpu")


@pytest.mark.parametrize(("bits", "most"), [(8, 0.02), (4, 0.2)])
def test_quantised_blocks_are_close_and_as_small_as_predicted(bits, most):
    expected, quantised = velocity(model()), model()
    prepare = quantization.quantiser(bits)
    state = {name: prepare(name, p) for name, p in quantised.state_dict().items()}
    quantised.load_state_dict(state, assign=True)
    error = (velocity(quantised) - expected).norm() / expected.norm()
    assert 1e-5 < error < most
    real = sum(stored_bytes(p) for p in quantised.parameters())
    assert real == pytest.approx(memory_plan.weight_bytes(model(), torch.float32, bits), rel=0.02)


def stored_bytes(tensor):
    """Bytes of a tensor, or of the tensors that a quantised one is made of."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return tensor.nbytes
    names, _ = tensor.__tensor_flatten__()
    return sum(getattr(tensor, name).nbytes for name in names)


# ---- float8


@pytest.fixture
def torchao(monkeypatch):
    """torchao without its look at the hardware: a CPU computes the same numbers, slowly."""
    import torchao.quantization.quant_api as api

    monkeypatch.setattr(api, "_check_hardware_support", lambda granularity: None)
    return quantization.import_torchao()


def test_the_velocity_is_near_and_only_what_sees_tokens_is_changed(torchao):
    expected, changed = velocity(model().bfloat16()), model().bfloat16()
    quantization.to_float8(changed, torchao)
    error = (velocity(changed) - expected).norm() / expected.norm()
    assert 1e-3 < error < 0.1
    kinds = {name: type(p.data).__name__ for name, p in changed.named_parameters()}
    new = {name for name, kind in kinds.items() if kind == "Float8Tensor"}
    assert {"single_blocks.0.linear1.weight", "double_blocks.1.txt_mlp.2.weight"} <= new
    assert all("_blocks." in name and ".lin." not in name for name in new)


def test_a_device_without_it_is_refused_and_nothing_changes():
    net = model()
    with pytest.raises(ConfigError, match="8.9"):
        quantization.use_float8(net)
    assert all(type(p.data) is torch.Tensor for p in net.parameters())
    with pytest.raises(ConfigError, match="8.9"):
        KontextPipeline.from_pretrained("toy").use_float8()


def test_streamed_quantised_and_wide_blocks_are_refused(torchao, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(quantization, "float8_usable", lambda device: True)
        with pytest.raises(ConfigError, match="bfloat16"):
            quantization.use_float8(model())
    streamed, quantised = model(), model()
    offload.stream(offload.transformer_blocks(streamed), "cpu")
    with pytest.raises(ConfigError, match="[Ss]treamed"):
        quantization.use_float8(streamed)
    prepare = quantization.quantiser(8)
    state = {name: prepare(name, p) for name, p in quantised.state_dict().items()}
    quantised.load_state_dict(state, assign=True)
    with pytest.raises(ConfigError, match="quantised already"):
        quantization.use_float8(quantised)
