"""`serve demo` and the command that it prints, as a newcomer has them."""

import pytest
from command_line import run
from served import Served


@pytest.mark.slow
def test_the_demo_is_served_and_asked_with_the_command_that_it_prints(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    served = Served("demo")
    try:
        (line,) = [text.strip() for text in served.log if "linalign-lite ask" in text]
        program, *words = line.split()
        assert program == "linalign-lite"
        done = run(*words, "--json")
        assert '"queries": 145' in done.stdout
    finally:
        assert served.stop() == 0
