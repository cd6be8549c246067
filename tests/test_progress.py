"""What a study tells where stderr is no terminal."""

from bdjax.engine.progress import Lines


def test_lines_say_how_far_a_study_is(capsys):
    lines = Lines(every=0.0)
    lines.begin(8, 2)
    lines.stage("badnets", 4)
    lines.compiled("advance", 3.4)
    lines.advanced(0.25, 100)
    lines.trained(4)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("bdjax: 2/8 models; badnets (4 cells) 25%; ") and first.endswith(" steps/s; compiled 3 s")
    assert second.startswith("bdjax: 6/8 models; badnets (4 cells) 25%; 0 steps/s")


def test_lines_are_not_told_more_often_than_asked(capsys):
    lines = Lines(every=1e6)
    lines.begin(8, 2)
    lines.advanced(0.5, 100)
    lines.trained(4)
    assert not capsys.readouterr().err
