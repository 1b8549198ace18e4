"""The benchmark of full-size weights at tiny size: what fails is noted, and the rest is kept."""

import json
import sys
import weakref
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import gpu_full
import gpu_full as gpu

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def same_compiler():
    """The script sets torch's compiler up for good; what is compiled is tested elsewhere."""
    config = torch._dynamo.config
    kept = {n: getattr(config, n) for n in ("recompile_limit", "fail_on_recompile_limit_hit")}
    with config.patch(**kept), torch.compiler.set_stance("force_eager"):
        yield


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the script with some words; -> its report."""

    def run(*words, code=0, error=SystemExit):
        out = tmp_path / "out.json"
        given = ["--tiny", "--rounds", "1", "--device", "cpu", "--json", str(out), *words]
        monkeypatch.setattr(sys, "argv", ["gpu_full.py", *given])
        if code or error is not SystemExit:
            with pytest.raises(error) as raised:
                gpu_full.main()
            assert error is not SystemExit or raised.value.code == code
        else:
            gpu_full.main()
        return json.loads(out.read_text())

    return run


@pytest.fixture
def nets():
    return gpu_full.Nets.random(gpu.TINY, CPU)


@contextmanager
def broken(nets):
    yield {"minikontext": lambda given: (_ for _ in ()).throw(RuntimeError("a broken kernel"))}


def test_it_measures_all_that_a_cpu_can(run, capsys):
    report = run("--plans")
    assert len(report["cases"]) == 12  # two nets, eager and compiled, three numbers of contexts
    assert len(report["ratios"]) == 6 and not report["failed"]
    assert report["left_out"].keys() == {"graphs", "fa3", "fp8"}
    errors = [row["error"] for row in report["errors"].values()]
    assert len(errors) == 6 and 0 < max(errors) < 2e-6 and report["rate_tflops"] > 0
    rows = report["cases"]
    assert all(row["seconds"] > 0 and row["share_of_rate"] > 0 for row in rows.values())
    pair = (rows[f"{who} eager, 2 contexts"]["seconds"] for who in ("minikontext", "diffusers"))
    assert report["ratios"]["minikontext / diffusers eager, 2 contexts"]["median"] == pytest.approx(
        next(pair) / next(pair)
    )
    assert [*report["plans"]] == ["resident", "encoders", "8-bit", "4-bit", "stream"]
    sizes = {name: row["predicted_gb"] for name, row in report["plans"].items()}
    assert sizes["4-bit"] < sizes["8-bit"] < sizes["resident"] == sizes["encoders"]
    assert all(row["seconds"] > 0 == row["measured_gb"] for row in report["plans"].values())
    assert "minikontext compiled, 2 contexts" in capsys.readouterr().out


def test_a_failure_loses_nothing_and_the_next_variant_begins(run, monkeypatch):
    monkeypatch.setitem(gpu_full.VARIANTS, "eager", broken)
    report = run("--only", "eager", "compiled", code=1)
    assert "a broken kernel" in report["failed"]["eager"]
    assert [name for name in report["cases"] if "compiled" in name] == [*report["cases"]]
    assert len(report["cases"]) == 6


def test_what_was_measured_is_on_the_disk_when_the_script_is_killed(run, monkeypatch):
    @contextmanager
    def killed(nets):
        yield {"minikontext": lambda given: (_ for _ in ()).throw(KeyboardInterrupt)}

    monkeypatch.setitem(gpu_full.VARIANTS, "compiled", killed)
    report = run(error=KeyboardInterrupt)
    assert len(report["cases"]) == 6 and len(report["errors"]) == 3


def test_a_wrong_net_fails(run, monkeypatch):
    theirs = gpu_full.call_theirs
    monkeypatch.setattr(gpu_full, "call_theirs", lambda *given: 1.001 * theirs(*given))
    report = run("--only", "eager", code=1)
    assert len(report["failed"]) == 3  # for no, one and two contexts
    assert "is above 1e-05" in report["failed"]["error of ours against diffusers, 0 contexts"]
    assert len(report["cases"]) == 6


def test_a_wrong_variant_fails(run, monkeypatch):
    @contextmanager
    def wrong(nets):
        yield {"minikontext": lambda given: nets.ours(**given) * float("nan")}

    monkeypatch.setitem(gpu_full.VARIANTS, "compiled", wrong)
    report = run("--only", "compiled", code=1)
    assert report["errors"]["compiled, 1 contexts"]["error"] is None
    assert len(report["failed"]) == 3 and "ours against" not in " ".join(report["failed"])


def test_when_the_time_is_up_the_rest_is_named(run):
    report = run("--minutes", "0", "--plans")
    assert not report["cases"] and not report["plans"] and not report["failed"]
    assert {*gpu_full.VARIANTS, "diffusers", "plan 4-bit"} <= report["left_out"].keys()


def test_float8_gets_the_memory_of_the_other_net(nets, monkeypatch):
    theirs, seen = weakref.ref(nets.theirs), []
    monkeypatch.setattr(gpu_full.quantization, "float8_usable", lambda device: True)
    monkeypatch.setattr(gpu_full.quantization, "use_float8", lambda net: seen.append(theirs()))
    with gpu_full.fp8(nets) as runs:
        assert [*runs] == ["minikontext"]
    assert seen == [None]


def test_flash_attention_3_is_left_whatever_happens(nets, monkeypatch):
    left = []
    monkeypatch.setattr(gpu_full.attention, "use_flash_attention_3", lambda device: True)
    monkeypatch.setattr(gpu_full.attention, "leave_flash_attention_3", lambda: left.append(1))
    with pytest.raises(RuntimeError), gpu_full.flash3(nets):
        raise RuntimeError
    assert left == [1]


def test_a_variant_compiles_anew(nets):
    blocks = [
        m for net in (nets.ours, nets.theirs) for m in net.modules() if "Block" in str(type(m))
    ]
    nets.compile()
    compiled = [block._compiled_call_impl for block in blocks]
    assert len(blocks) == 8 and None not in compiled
    nets.refresh()
    assert all(block._compiled_call_impl is None for block in blocks)


def test_a_small_gpu_is_refused_and_a_second_one_is_chosen(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (30 * gpu.GB, 80 * gpu.GB))
    second = torch.device("cuda:1")
    with pytest.raises(SystemExit, match=r"needs 40 GB, and of the 80.0 GB of cuda:1 30.0 are"):
        gpu.ready(second, False, gpu_full.NEED)
    gpu.ready(second, True, gpu_full.NEED)
    gpu.ready(second, False, 20 * gpu.GB)
    assert chosen == [second] * 3
    with pytest.raises(SystemExit, match="needs a CUDA GPU"):
        gpu.ready(CPU, False)


def test_the_plans_compute_the_same_net():
    given = gpu_full.edit_inputs(gpu.TINY, 4, 8, 1, CPU)

    def velocity(bits, stream):
        net = gpu_full.planned(gpu.TINY, bits, stream, CPU)
        packed = sum(gpu_full.quantization.is_packed(p) for p in net.parameters())
        assert (packed > 0) == bool(bits) and gpu_full.offload.is_streamed(net) == stream
        with torch.no_grad():
            return net(**given)

    exact = velocity(None, False)
    assert torch.equal(velocity(None, True), exact)
    assert 0 < gpu.relative_error(velocity(8, False), exact) < 0.05
    assert 0.02 < gpu.relative_error(velocity(4, False), exact) < 0.5


def test_quantised_plans_are_left_out_without_torchao(run, monkeypatch):
    monkeypatch.setattr(gpu_full.quantization, "has_torchao", lambda: False)
    report = run("--plans", "--only")
    assert report["plans"].keys() == {"resident", "encoders", "stream"}
    assert report["left_out"].keys() == {"plan 8-bit", "plan 4-bit"} and not report["cases"]
