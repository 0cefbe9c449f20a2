"""The demo's steps fit together; what they do is tested with each of them."""

import demo
from midi2wave.config import load_config


def test_it_trains_with_the_strings_of_the_piano_that_it_trains_on(monkeypatch, capsys):
    commands = {}

    def step(script, *arguments):
        commands.setdefault(script, list(map(str, arguments)))
        return {"wavs": [], "output_dir": "", "validation_nll": 8.0, "validation_gap": 2.0}

    monkeypatch.setattr(demo, "step", step)
    assert demo.main([]) == 0 and "2.00 worse" in capsys.readouterr().out
    measured, trained = commands["measure_partials.py"], commands["train.py"]
    assert list(commands).index("preprocess_maestro.py") < list(commands).index("measure_partials.py")
    assert trained == ["-c", measured[measured.index("-o") + 1]]
    assert "--force" in measured  # the same command goes on after an interruption
    data = load_config(measured[measured.index("-c") + 1], ("data_config",)).data_config
    assert data.dataset_path == measured[measured.index("-d") + 1] and data.preemphasis
