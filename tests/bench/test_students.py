"""Teacher and students side by side: equal cases and seeds; results are kept by way."""

from dataclasses import replace

from minikontext.bench import students
from minikontext.bench.oracle_bench import evaluate, held_out_cases
from minikontext.bench.students import Way
from minikontext.pipeline import KontextPipeline


def test_a_way_is_scored_as_the_bench_scores_it_and_edits_alone_where_asked():
    cases = [case for case in held_out_cases(40, 4) if len(case.contexts) < 2][:6]
    cases.append(next(c for c in held_out_cases(200, 4) if not c.contexts))
    ways = [Way("toy", 2), Way("toy", 1, cfg=2.0, edits=True)]
    plain, guided = students.compare(ways, cases, seeds=2, chunk=4)
    pipe = KontextPipeline.from_pretrained("toy")
    reports = [evaluate(pipe, cases, seed, num_inference_steps=2)[0] for seed in range(2)]
    assert plain.seeds == [report.success for report in reports]
    assert guided.cases < plain.cases == len(cases) and "text to image" not in guided.by_task
    assert (plain.way.evaluations, guided.way.evaluations) == (2, 2)


def test_results_are_kept_and_replaced_by_way(tmp_path):
    one = students.Result(
        Way("toy", 4), 10, 90.0, (80.0, 95.0), 95.0, 91.0, 34.0, [90.0, 89.0], {"local": 88.0}
    )
    other = replace(one, way=Way("toy", 28, cfg=1.5), success=92.0)
    students.save([one, other], tmp_path / "s.json")
    students.save([replace(one, success=70.0)], tmp_path / "s.json")
    kept = students.load(tmp_path / "s.json")
    assert [r.success for r in kept] == [70.0, 92.0] and kept[1] == other
    assert "| toy, 28 steps, CFG 1.5 | 56 | 92.0 |" in students.table(kept)
    assert len(students.plot(kept).axes[0].containers) == 2
