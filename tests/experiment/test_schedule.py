"""Which steps are made, in which order, and when their outputs may go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mpu_cli.experiment.estimate import History, forecast
from mpu_cli.experiment.schedule import Schedule, Work
from mpu_cli.experiment.step import Graph, Result, Step
from mpu_cli.experiment.store import Finished, Store


def graph(needs: dict[str, list[str]], kept: tuple[str, ...] = ()) -> Graph:
    """Steps by name with the steps that each reads; "x!" reads only the answer of x."""
    return Graph(
        {
            name: Step(
                name=name,
                kind="eval",
                party="observer",
                words=(
                    name,
                    *(
                        Result(other.rstrip("!"), "stdout.json" if other[-1] == "!" else "out")
                        for other in others
                    ),
                ),
                outputs=("out",),
                is_kept=name in kept,
            )
            for name, others in needs.items()
        }
    )


def work(needs: dict[str, list[str]], kept: tuple[str, ...] = ()) -> Work:
    """The same by key; a key is the step's name."""
    return Work.of(graph(needs, kept), {name: name for name in needs})


def done(name: str, *, reclaimed: bool = False) -> Finished:
    """A finished step."""
    return Finished(
        name=name, kind="eval", seconds=2.0, nbytes=10, files={}, is_reclaimed=reclaimed
    )


DIAMOND = {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c!"]}


def test_all_steps_of_an_empty_store_are_made():
    """And none where all are done, also if their outputs were removed."""
    w = work(DIAMOND)
    assert w.to_make(lambda key: None) == set(DIAMOND)
    assert w.to_make(lambda key: done(key, reclaimed=True)) == frozenset()


def test_a_removed_output_is_made_again_if_a_step_reads_it():
    """With what it was made from; an answer is always there."""
    states = {key: done(key, reclaimed=True) for key in "abc"} | {"d": None}
    assert work(DIAMOND).to_make(states.get) == {"a", "b", "d"}
    states["a"] = done("a")
    assert work(DIAMOND).to_make(states.get) == {"b", "d"}


def test_a_chain_is_finished_before_the_next_begins():
    """So few outputs lie on the disk at any time, and each goes with its last reader."""
    w = work({"a1": [], "a2": ["a1"], "b1": [], "b2": ["b1"]})
    schedule = Schedule(w, w.steps)
    order, freed = [], []
    while (key := schedule.next()) is not None:
        order.append(key)
        freed.append(schedule.done(key))
    assert order == ["a1", "a2", "b1", "b2"]
    assert freed == [[], ["a1", "a2"], [], ["b1", "b2"]]


def test_what_depends_on_a_failed_step_is_not_run():
    """Other branches go on, and the inputs of what was not run stay."""
    w = work({"a": [], "b": ["a"], "c": ["b"], "d": ["a"]})
    schedule = Schedule(w, w.steps)
    assert schedule.next() == "a"
    assert schedule.done("a") == []
    assert schedule.next() == "b"  # it fails
    assert schedule.next() == "d"
    assert schedule.done("d") == ["d"]
    assert schedule.next() is None
    assert schedule.depending_on(["b"]) == {"c"}
    assert not schedule.is_free("a")


def test_a_kept_output_stays():
    """A plan may keep what nothing reads."""
    w = work({"a": [], "b": ["a"]}, kept=("b",))
    schedule = Schedule(w, w.steps)
    assert [schedule.done(schedule.next()), schedule.done(schedule.next())] == [[], ["a"]]


def test_equal_steps_are_one():
    """Two names with one key are made once."""
    w = Work.of(graph({"a": [], "b": []}), {"a": "k", "b": "k"})
    assert list(w.steps) == ["k"]


@given(
    st.integers(1, 12).flatmap(
        lambda n: st.tuples(
            *(st.frozensets(st.integers(0, k - 1)) if k else st.just(frozenset()) for k in range(n))
        )
    ),
    st.data(),
)
def test_every_step_is_made_once_after_what_it_needs(parents, data):
    """Any graph, any state of the store, any number of steps at a time; all outputs go at last."""
    names = [str(number) for number in range(len(parents))]
    w = work({str(n): [str(p) for p in sorted(ps)] for n, ps in enumerate(parents)})
    states = {
        name: data.draw(st.sampled_from([None, done(name), done(name, reclaimed=True)]))
        for name in names
    }
    make = w.to_make(states.get)
    present = {n for n in names if n not in make and states[n] and not states[n].is_reclaimed}
    schedule = Schedule(w, make)
    running, made = [], []
    while True:
        while len(running) < 3 and (key := schedule.next()) is not None:
            assert w.inputs[key] <= present
            running.append(key)
        if not running:
            break
        key = running.pop(data.draw(st.integers(0, len(running) - 1)))
        made.append(key)
        present.add(key)
        present -= set(schedule.done(key))
    assert sorted(made) == sorted(make)
    assert not present & make


def test_time_is_predicted_from_steps_like_it():
    """The same cell with another seed first, then its method, then its kind; else unknown."""
    history = History()
    step = graph({"NPO kappa=0.1 copies=2 seed=3 / round 2 / eval": []})
    (step,) = step.steps.values()
    assert history.seconds(step) is None
    for name, seconds in (
        ("RMU kappa=0.1 seed=1 / eval", 50.0),
        ("NPO kappa=0.1 copies=3 seed=1 / round 1 / eval", 7.0),
        ("NPO kappa=0.1 copies=2 seed=1 / round 1 / eval", 3.0),
    ):
        history.add(Finished(name=name, kind="eval", seconds=seconds, nbytes=1, files={}))
        expected = seconds
        assert history.seconds(step) in {expected, 28.5, 3.0}
    assert history.seconds(step) == 3.0


def test_the_forecast_says_steps_disk_and_time(tmp_path):
    """What is known is added up over parallel chains; what is not is named."""
    store = Store(tmp_path)
    store.open()
    w = work({f"{chain}{n}": [f"{chain}{n - 1}"] if n else [] for chain in "ab" for n in range(3)})
    first = forecast(w, store, 2)
    assert (first.steps, first.found, first.seconds, first.unknown) == (6, 0, None, ("eval",))
    with store.attempt("a0", keep=False) as attempt:
        (attempt.path / "out").write_text("x" * 10)
        attempt.finish("a0", "eval", 2.0, ["out"])
    second = forecast(w, store, 2)
    assert (second.found, second.to_make, second.seconds) == (1, {"eval": 5}, 6.0)
    assert second.disk_bytes == 40
    assert forecast(w, store, 1).seconds == 10.0
