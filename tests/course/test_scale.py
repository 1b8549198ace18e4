"""The plan's widget: dials in, memory and time out; nothing is trained."""

import io
from dataclasses import replace

import pytest
from PIL import Image

from minikontext.course.scale import GPUS, NETS, PlanWidget, at_peak, job, run_processes
from minikontext.errors import TrainingError
from minikontext.training import plan


def test_dials_change_memory_and_time():
    demo = PlanWidget()
    assert "Fits" in demo.status.value or "Does not fit" in demo.status.value
    eight, drawn = demo.plan, demo.image.value
    demo.gpus.value = 64
    assert demo.plan.held["weights"] == eight.held["weights"] / 8 and demo.image.value != drawn
    demo.gpus.value = 1
    assert not demo.plan.fits and "mk-error" in demo.status.value
    demo.net.value = "toy, 5 M"
    assert demo.plan.fits and "mk-done" in demo.status.value
    width = Image.open(io.BytesIO(demo.image.png)).width
    assert width >= 2 * int(demo.image.layout.width.removesuffix("px"))  # for dense screens


def test_every_position_of_the_dials_has_a_plan():
    demo = PlanWidget()
    for net in NETS:
        for gpus in GPUS:
            demo.net.value, demo.gpus.value = net, gpus
            assert demo.plan.machine.gpus == gpus and demo.plan.seconds > 0
    before = demo.plan.held["activations"]
    demo.level.value = "none"
    assert demo.plan.held["activations"] > 5 * before
    before = demo.plan.compute
    demo.precision.value = False
    assert demo.plan.compute == 2 * before


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("level", ["none", "full"])
def test_a_bar_is_as_long_as_the_peak(level, accumulate):
    """A student adds up what is drawn; not all that a step ever holds is there at once."""
    ends = set()
    for net in NETS:
        for batch in (64, 1024):
            asked = job(net, batch, level=level)
            asked = replace(asked, loop=replace(asked.loop, accumulate=accumulate))
            one = plan.make(asked, plan.Machine(gpus=64 // accumulate))
            drawn = at_peak(one)
            peak = (one.held["peak"] + plan.RESERVE) / plan.GIB
            assert sum(drawn.values()) == pytest.approx(peak)
            ends.add(drawn["whole blocks"] > 0)
    assert True in ends


def test_a_program_that_fails_says_why():
    with pytest.raises(TrainingError, match="nonsense"):
        run_processes("raise ValueError('nonsense')", 1)


def test_processes_leave_their_group_before_they_end():
    """Else one of them is aborted now and then, while the other still talks to it."""
    program = (
        "import atexit, torch.distributed as dist\n"
        "atexit.register(lambda: print('still in it:', dist.is_initialized()))\n"
        "dist.init_process_group('gloo')\n"
        "dist.barrier()"  # both have met: one that is gone before the other came is another fault
    )
    assert run_processes(program, 2).split("\n")[:2] == ["still in it: False"] * 2
