"""SFZ files: which regions they have."""

import itertools

import pytest

from midi2wave.data.salamander import HIGHEST_VELOCITIES, sampled_keys, sfz_text
from midi2wave.data.sfz import read_sfz
from midi2wave.utils.errors import InputError


@pytest.fixture
def read(tmp_path):
    def read_text(text):
        (tmp_path / "i.sfz").write_text(text, encoding="utf-8")
        return read_sfz(tmp_path / "i.sfz")

    return read_text


def test_regions_inherit_what_sections_say(read):
    regions = read(
        "<global> volume=-2 ampeg_release=0.5\n<group> lovel=1 hivel=64 /* loud\n ones */ volume=-4\n"
        "<region> sample=a b.wav key=c4 // middle\n"
        "<region> sample=dir\\c.wav lokey=61 hikey=f#4 pitch_keycenter=62 tune=-7\n"
        "<group>\n<region> sample=d.wav key=70 amp_veltrack=73 trigger=release rt_decay=6"
    )
    first, second, third = regions
    assert first.sample.name == "a b.wav" and first.keys == (60, 60) and first.keycenter == 60
    assert (first.volume_db, first.velocities, first.release_seconds) == (-4, (1, 64), 0.5)
    assert second.sample.parts[-2:] == ("dir", "c.wav") and second.keys == (61, 66) and second.line == "i.sfz:5"
    assert second.cents(61) == -107
    assert (third.volume_db, third.velocities, third.veltrack) == (-2, (0, 127), 0.73)
    assert third.on_release and third.rt_decay_db == 6


def test_definitions_includes_and_offsets(read, tmp_path):
    (tmp_path / "keys.txt").write_text("<region> sample=$NAME.wav key=$KEY\n")
    (region,) = read('#define $KEY 40\n#define $NAME x\n<control> octave_offset=1 note_offset=2\n#include "keys.txt"')
    assert region.sample.name == "x.wav" and region.keys == (54, 54) and region.cents(54) == 0


def test_several_directives_in_a_line(read, tmp_path):
    (tmp_path / "keys.txt").write_text("<region> sample=$NAME.wav key=$KEY\n")
    line = '<control>#define $KEY 40 #define $NAME F#define octave_offset=1 #include "keys.txt" #define $KEY 41 '
    first, second = read(line + '#include "keys.txt" <region> sample=c #1.wav key=$KEY')[:2]
    assert first.sample.name == second.sample.name == "F#define.wav" and (first.keys[0], second.keys[0]) == (52, 53)
    assert read(line + "<region> sample=c #1.wav key=f#2")[-1].sample.name == "c #1.wav"


@pytest.mark.parametrize(
    ("included", "words"),
    [
        ("a a", "a.txt, which includes this file again"),
        ("bb cc dd ee ff gg hh", "more than 100000 characters; remove those that repeat each other"),
        ("b c d e f g h i j", "9 files include one another, expected at most 8"),
    ],
)
def test_includes_have_an_end(read, tmp_path, monkeypatch, included, words):
    monkeypatch.setattr("midi2wave.data.sfz.MAX_CHARACTERS", 100_000)
    for name, names in zip("abcdefghi", included.split(), strict=False):
        n_times = 40 if len(names) == 2 else 1
        (tmp_path / f"{name}.txt").write_text(f'#include "{names[0]}.txt"\n' * n_times)
    (tmp_path / f"{included[-1]}.txt").touch()
    with pytest.raises(InputError, match=words):
        read('#include "a.txt"\n<region> sample=a.wav')


def test_variables_that_double_each_other_have_an_end(read):
    names = [f"${'A' * length}" for length in range(1, 50)]
    lines = [f"#define {name} {shorter}{shorter}" for shorter, name in itertools.pairwise(names)]
    with pytest.raises(InputError, match="with its #include and #define lines the instrument has more than"):
        read("\n".join([*lines, f"<region> sample={names[-1]}.wav"]))


def test_regions_that_alternate_or_need_controllers_are_left_out(read):
    regions = read(
        "<region> sample=a.wav\n<region> sample=b.wav seq_position=2\n<region> sample=c.wav lorand=0.5\n"
        "<region> sample=d.wav on_locc64=126 on_hicc64=127\n<region> sample=e.wav locc64=64\n<region> sample=*sine\n"
        "<region> sample=f.wav sw_last=30 sw_default=31\n<region> sample=g.wav trigger=legato\n"
        "<region> sample=h.wav hicc64=63"
    )
    assert [region.sample.name for region in regions] == ["a.wav", "h.wav"]


def test_what_is_not_supported_is_said(read, capsys):
    read("<region> sample=a.wav cutoff=500 loop_mode=loop_continuous lochan=1")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("is not supported: cutoff, loop_mode")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no <region>"),
        ("<region> key=60", "no <region>"),
        ("<region> sample=a.wav key=h4", "i.sfz:1: key=h4"),
        ("\n<region> sample=a.wav volume=loud", "i.sfz:2: volume=loud"),
        ("<region> sample=a.wav tune=nan", "tune=nan"),
        ("<region> sample=a.wav volume=1e6", "volume=1e6, expected a number up to 200"),
        ("<region> sample=a.wav transpose=1e5", "by 9.9961e+06 cents, expected at most 12000"),
        ("<region> sample=a.wav pitch_keycenter=9999", "pitch_keycenter=9999, expected a key"),
        ("<region> sample=/a.wav", "sample=/a.wav, expected a path relative to the SFZ file"),
        ('#include "other.sfz"', "other.sfz, which is not there"),
        ('#include "i.sfz"', "i.sfz, which includes this file again; remove this line"),
        ("RIFF\0\0", "is not text"),
    ],
)
def test_wrong_files_are_refused_in_one_line(read, text, words):
    with pytest.raises(InputError) as error:
        read(text)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_salamander_has_each_key_once_in_each_velocity(read):
    regions = read(sfz_text())
    assert len(regions) == 30 * 16 + 88 and len(sampled_keys()) == 30
    assert sampled_keys()[0] == (21, "A0") and sampled_keys()[5] == (36, "C2") and sampled_keys()[-1] == (108, "C8")
    for on_release, velocities in ((False, range(1, 128)), (True, [1, 127])):
        for pitch in range(21, 109):
            for velocity in velocities:
                matching = [
                    r
                    for r in regions
                    if r.on_release == on_release
                    and r.keys[0] <= pitch <= r.keys[1]
                    and r.velocities[0] <= velocity <= r.velocities[1]
                ]
                assert len(matching) == 1
    assert {region.release_seconds for region in regions if region.keys[0] >= 89 and not region.on_release} == {5}
    assert len(HIGHEST_VELOCITIES) == 16
