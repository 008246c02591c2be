"""Several models in one role: each row is scored by the model of its domain, as in a run of its own."""

import dataclasses
import shutil
import signal

import pytest
import torch
from test_comparing import KINDS, frozen
from test_named_roles import BESIDE
from test_resume import SignalAt, assert_same, in_child, installed
from test_scoring import gradients, ragged
from tiny_runs import cli, demonstrations, plugin_file, trainer, two_processes, write_rows

from zoo.contract.registry import load_algorithm
from zoo.errors import ZooError
from zoo.models.reference import Reference
from zoo.models.roles import Policy
from zoo.models.several import Several
from zoo.options.config import resolve
from zoo.options.roles import ONE, ROLES
from zoo.runs import Run
from zoo.testing.tiny import make_model, write_folder
from zoo.training.outlook import _Look
from zoo.training.resuming import FILE
from zoo.training.run import resume
from zoo.values.types import Answers

TEACHER = ROLES["teacher"]


# -- what an option names -------------------------------------------------------------------------------------------


def test_an_option_names_one_model_or_one_for_each_domain(tmp_path, monkeypatch):
    assert TEACHER.models("runs/lr=0.1") == {ONE: "runs/lr=0.1"}
    assert TEACHER.models("math=owner/a, code=/b,c/d") == {"math": "owner/a", "code": "/b,c/d"}
    worlds = {"math": "world:gold(width=24, layers=1)", "code": "world:gold(seed=2)"}
    assert TEACHER.models("math=world:gold(width=24, layers=1), code=world:gold(seed=2)") == worlds
    assert TEACHER.with_models("math=a,code=b", str.upper) == "math=A,code=B"
    assert TEACHER.with_models("a", str.upper) == "A"
    assert ROLES["policy"].models("math=a") == {ONE: "math=a"}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=0.1").mkdir()
    assert TEACHER.models("lr=0.1") == {ONE: "lr=0.1"}


@pytest.mark.parametrize(
    ("text", "why"), [("math=,code=b", "math has no model"), ("math=a,math=b", "math is there tw")]
)
def test_a_domain_has_one_model(text, why):
    with pytest.raises(ZooError, match=f"--teacher {text}: the domain {why}"):
        TEACHER.models(text)


# -- scores ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def teachers(tiny_model):
    """The models of two domains, and answers of both in turns."""
    size, end = tiny_model.config.vocab_size, tiny_model.config.eos_token_id
    models = {
        name: make_model(size, end, seed=seed).requires_grad_(False) for seed, name in enumerate(("math", "code"), 1)
    }
    answers = [dataclasses.replace(a, domain=("math", "code")[i % 2]) for i, a in enumerate(ragged())]
    return models, Answers(answers)


def of(answers, domain):
    places = [place for place, answer in enumerate(answers) if answer.domain == domain]
    return places, answers.select(places)


def test_each_answer_is_scored_by_the_model_of_its_domain(teachers):
    models, answers = teachers
    several = Several("teacher", {name: frozen(model) for name, model in models.items()})
    scored = several.logps(answers, entropy=True)
    for domain, model in models.items():
        places, own = of(answers, domain)
        alone = frozen(model).logps(own, entropy=True)
        width = alone.mask.shape[1]
        assert torch.equal(scored.per_token[places, :width], alone.per_token)
        assert torch.equal(scored.entropy[places, :width], alone.entropy)
        assert torch.equal(scored.mask[places, :width], alone.mask) and not scored.mask[places, width:].any()
    first, second = several.logps(answers[:3], answers[3:])
    torch.testing.assert_close(torch.cat([first.sum(), second.sum()]), scored.sum())
    assert several.logps(Answers([])).sum().shape == (0,)


@pytest.mark.parametrize("kind, beta", KINDS)
@pytest.mark.parametrize("layout", ["shared", "padded"])
@pytest.mark.parametrize("top_k", [None, 5])
def test_the_divergence_is_that_from_the_model_of_each_domain(tiny_model, teachers, kind, beta, layout, top_k):
    models, answers = teachers
    policy = Policy(tiny_model, layout)
    how = {"kind": kind, "beta": beta, "top_k": top_k}
    alone = {name: policy.divergence(of(answers, name)[1], frozen(model), **how) for name, model in models.items()}
    sum(values.sum() for values in alone.values()).backward()
    expected = gradients(tiny_model)
    several = Several("teacher", {name: frozen(model, "shared") for name, model in models.items()})
    values = policy.divergence(answers, several, **how)
    for name, own in alone.items():
        torch.testing.assert_close(values[of(answers, name)[0], : own.shape[1]], own, rtol=1e-4, atol=1e-5)
    values.sum().backward()
    for name, gradient in gradients(tiny_model).items():
        scale = float(expected[name].abs().max())
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5 * scale)
    policy.micro_tokens = 12
    with torch.no_grad():
        torch.testing.assert_close(policy.divergence(answers, several, **how), values, rtol=1e-4, atol=1e-5)


def test_an_answer_of_no_domain_is_refused(teachers):
    models, answers = teachers
    several = Several("guide", {name: frozen(model) for name, model in models.items()})
    lost = Answers([*answers, dataclasses.replace(answers[0], domain=None)])
    with pytest.raises(
        ZooError, match="The role guide has a model for each of math, code, and an answer or prompt has"
    ):
        several.logps(lost)
    with pytest.raises(ZooError, match="The role guide has no model for the domain 'maht'. Did you mean 'math'"):
        several.logps(Answers([dataclasses.replace(answers[0], domain="maht")]))


def test_a_role_that_takes_the_policy_s_weights_has_them_for_all_domains(tiny_model, teachers):
    models, answers = teachers
    policy = Policy(tiny_model, "padded")

    def several():
        each = {name: Reference(lambda m=m: m, "padded", None, policy=policy) for name, m in models.items()}
        return Several("opponent", each)

    one = several()
    before = one.logps(answers).sum()
    assert one.state() is None
    one.renew()
    assert torch.equal(one.logps(answers).sum(), policy.logps(answers).sum())
    again = several()
    again.load_state({name: weights.clone() for name, weights in one.state().items()})
    assert torch.equal(again.logps(answers).sum(), one.logps(answers).sum())
    again.load_state(None)
    assert torch.equal(again.logps(answers).sum(), before)


# -- runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    return {name: str(write_folder(place / name, seed=seed)) for seed, name in enumerate(("math", "code"), 1)}


@pytest.fixture
def taught(tmp_path, tiny_folder, folders, monkeypatch):
    """`taught(algo, domains, **options)`: a run of one step on rows of these domains, by default mixed in one file."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    train = trainer(tmp_path, tiny_folder)
    rows = [{**row, "domain": domain_of(i)} for i, row in enumerate(demonstrations(12))]

    def run(algo, *domains, **options):
        chosen = [row for row in rows if row["domain"] in (domains or folders)]
        teacher = folders[domains[0]] if domains else named(folders)
        data = write_rows(tmp_path / f"{''.join(domains) or 'both'}.jsonl", chosen)
        how = {"data": data, "teacher": teacher, "batch_size": len(chosen), "max_steps": 1, "score": "none"}
        return train(algo, **{**how, **options})

    return run


def domain_of(number):
    """Both rows of a prompt have one domain."""
    return ("math", "code")[number // 2 % 2]


def named(folders):
    return ",".join(f"{domain}={folder}" for domain, folder in folders.items())


GREEDY = {"temperature": 0.0, "answers_per_prompt": 1, "max_new_tokens": 6, "reward": None}


def mean(runs, metric):
    return sum(run.log_history[0][metric] for run in runs) / len(runs)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_gkd_with_two_teachers_is_what_each_gives_apart(taught, share):
    how = {**GREEDY, "own_share": share, "beta": 0.3}
    both, apart = taught("gkd", **how), [taught("gkd", domain, **how) for domain in ("math", "code")]
    assert mean([both], "loss") == pytest.approx(mean(apart, "loss"), rel=1e-5)
    assert apart[0].log_history[0]["loss"] != pytest.approx(apart[1].log_history[0]["loss"], rel=1e-4)


def test_opd_with_two_teachers_is_what_each_gives_apart(taught):
    both, apart = taught("opd", **GREEDY), [taught("opd", domain, **GREEDY) for domain in ("math", "code")]
    tokens = [run.log_history[0]["rollout/length"] * 6 for run in apart]
    expected = sum(run.log_history[0]["teacher_logp"] * n for run, n in zip(apart, tokens, strict=True)) / sum(tokens)
    assert both.log_history[0]["teacher_logp"] == pytest.approx(expected, rel=1e-5)


def test_a_strangers_role_has_several_too_and_what_they_said_is_cached(taught, tmp_path, folders, monkeypatch):
    role = '    own_roles = {"guide": Role(start="named", ahead=True)}\n    metrics ='
    body = "from zoo.api import Role\n" + BESIDE.replace("    metrics =", role).replace("ROLE", "guide")
    algo = plugin_file(tmp_path, body, "guided.py") + ":Beside"
    both = taught(algo, teacher=None, guide=named(folders))
    apart = [taught(algo, domain, teacher=None, guide=folders[domain]) for domain in folders]
    assert mean([both], "frozen") == pytest.approx(mean(apart, "frozen"), rel=1e-6)
    assert mean([both], "loss") == pytest.approx(mean(apart, "loss"), rel=1e-6)
    assert both.config["guide"] == named(folders)

    def compute(*given, **options):
        raise AssertionError("computed again")

    monkeypatch.setattr(Reference, "_compute", compute)
    assert taught(algo, teacher=None, guide=named(folders)).log_history[0]["frozen"] == both.log_history[0]["frozen"]


def test_the_name_of_a_part_is_the_domain_of_rows_without_one(taught, tmp_path, folders):
    for domain in folders:
        rows = [row for i, row in enumerate(demonstrations(12)) if domain_of(i) == domain]
        write_rows(tmp_path / f"{domain}-rows.jsonl", rows)
    parts = " + ".join(f"'{tmp_path / f'{domain}-rows.jsonl'}'(name={domain})" for domain in folders)
    mixed = taught("gkd", own_share=1.0, data=parts, **GREEDY)
    for domain in folders:
        apart = taught("gkd", domain, own_share=1.0, **GREEDY)
        assert mixed.log_history[0][f"loss/{domain}"] == pytest.approx(mean([apart], "loss"), rel=1e-5)


def test_a_stream_has_domains(taught, folders):
    how = {**GREEDY, "own_share": 0.0, "stream": True, "eval_fraction": 0.0, "shuffle_buffer": 12}
    assert mean([taught("gkd", **how)], "loss") == pytest.approx(mean([taught("gkd", own_share=0.0, **GREEDY)], "loss"))


def test_rows_without_a_domain_or_with_another_one_are_told(taught, tmp_path, folders):
    rows = [{**row, "subject": "math", "domain": "math"} for row in demonstrations(4)]
    del rows[2]["domain"]
    data = write_rows(tmp_path / "some.jsonl", rows)
    with pytest.raises(
        ZooError, match=r"Row 3 of \S+some.jsonl has no domain, and --teacher has a model for each of ma"
    ):
        taught("gkd", data=data)
    rows[2]["domain"] = "maths"
    write_rows(tmp_path / "some.jsonl", rows)
    with pytest.raises(ZooError, match=r"Row 3 of \S+ has the domain 'maths', .* Did you mean 'math'\?") as told:
        taught("gkd", data=data)
    assert told.value.hint.endswith("or add a model: --teacher …,maths=MODEL.")
    assert taught("gkd", data=data, columns="domain=subject").log_history
    with pytest.raises(ZooError, match="Row 1 of other has the domain 'other', and"):
        write_rows(tmp_path / "other.jsonl", demonstrations(4))
        taught("gkd", data=f"'{data}'(columns='domain=subject') + '{tmp_path / 'other.jsonl'}'")


def test_a_killed_run_goes_on_and_a_teacher_that_changed_is_seen(taught, tmp_path, folders):
    own = {name: str(shutil.copytree(folder, tmp_path / f"own-{name}")) for name, folder in folders.items()}
    how = {**GREEDY, "teacher": named(own), "batch_size": 4, "max_steps": 4, "save_every": 1, "temperature": 1.0}
    whole = taught("opd", name="whole", **how)

    def begin():
        installed(SignalAt(2, signal.SIGKILL))
        taught("opd", name="broken", **how)

    in_child(begin, tmp_path / "output.txt")
    broken = Run(tmp_path / "runs" / "broken")
    assert broken.config["teacher"] == named(own)
    assert {*broken.read_json(FILE)["began"]["teacher"]} == {"value", "weights:math", "weights:code"}
    resume(str(broken.path), quiet=True)
    assert_same(broken, whole)


def test_two_sharded_processes_are_one(taught, tmp_path, tiny_folder, folders):
    one = taught("gkd", own_share=0.5, beta=0.3, max_new_tokens=4, batch_size=6, max_steps=2, name="one")
    flags = ["--data", one.config["data"], "--teacher", named(folders), "--model", tiny_folder, "--score", "none"]
    flags += ["--own-share", 0.5, "--beta", 0.3, "--max-new-tokens", 4, "--batch-size", 6, "--max-steps", 2]
    flags += ["--precision", "32-true", "--eval-fraction", 0, "--schedule", "constant", "--warmup", 0]
    done = two_processes(
        "train", "--algo", "gkd", *flags, "--strategy", "fsdp", "--devices", 2, "--name", "two", cwd=tmp_path
    )
    assert [process.returncode for process in done] == [0, 0], done[0].stderr
    two = Run(tmp_path / "runs" / "two")
    for a, b in zip(one.log_history, two.log_history, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)


def test_the_look_ahead_names_and_counts_each_model(tmp_path, tiny_folder, folders):
    data = write_rows(tmp_path / "rows.jsonl", [{**row, "domain": "math"} for row in demonstrations(4)])
    status, out, _ = cli("train", "--algo", "gkd", "--model", tiny_folder, "--data", data, "--teacher", named(folders),
                         "--dry-run")  # fmt: skip
    assert status == 0 and "teacher:math" in out and "teacher:code" in out
    cls = load_algorithm("gkd")[1]
    options = {"model": str(tiny_folder), "data": data, "teacher": f"{named(folders)},more={folders['math']}"}
    look = _Look(resolve("gkd", cls, [("command line", options)]), cls, None, False)
    look._roles()
    assert {*look._models()} == {"policy", "reference", "teacher:code", "teacher:math"}


def test_a_model_that_is_not_there_is_told_before_anything_is_loaded(taught, tmp_path, folders):
    with pytest.raises(ZooError, match="nowhere"):
        taught("opd", teacher=f"math={folders['math']},code=./nowhere")
    assert not (tmp_path / "runs").exists()
