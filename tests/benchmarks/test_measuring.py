"""What the benchmarks measure with."""

import pytest
from measuring import measured
from one_round import workspace


def test_the_sampler_sees_a_short_allocation():
    """Control: the peak includes 64 MiB that a child holds for 50 ms, and nothing else so large."""
    code = "{}; time.sleep(.05); del x"
    assert 64 <= measured("", code.format("x = b'1' * (64 << 20)")).peak_mib < 80
    assert measured("", code.format("x = 1")).peak_mib < 8


def test_seconds_are_those_of_the_command_and_its_children():
    """Imports do not count, work of child processes does, and waiting is wall time only."""
    burn = "end = time.process_time() + .2\nwhile time.process_time() < end: pass"
    child = (
        "import subprocess; subprocess.run([sys.executable, '-c',"
        f" {'import time' + chr(10) + burn!r}], check=True)"
    )
    cost = measured(burn, f"{child}\ntime.sleep(.3)\nextra['seen'] = arguments", "a")
    assert 0.2 <= cost.cpu < 0.35 and cost.wall >= 0.5 and cost.extra == {"seen": ["a"]}


def test_a_failing_command_says_why():
    """What the child wrote to stderr, also through stdout, is in the error."""
    with pytest.raises(RuntimeError, match="no such thing"):
        measured("", "print('no such thing', flush=True); sys.exit(3)")
    with pytest.raises(RuntimeError, match=r"importing:[\s\S]*nowhere"):
        measured("import nowhere", "pass")


def test_a_workspace_is_removed_and_refused_on_a_small_disk(tmp_path):
    """Nothing stays behind, an error included.

    More than the disk has is refused before anything is written.
    """
    with pytest.raises(ZeroDivisionError), workspace(tmp_path, 1000) as root:
        (root / "file").write_text("x")
        raise ZeroDivisionError
    with pytest.raises(SystemExit, match="choose another --work"), workspace(tmp_path, 10**18):
        pass
    assert not any(tmp_path.iterdir())
