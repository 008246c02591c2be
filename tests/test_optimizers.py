"""Optimizers and schedules: their formulas, their options, which weights they take, and their checks."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from tiny_runs import cli, trainer, write_rows
from transformers import GPT2Config, GPT2LMHeadModel

import zoo
from zoo.contract.plugin_files import import_file
from zoo.errors import PluginError, ZooError
from zoo.optimizers import ParameterGroup
from zoo.optimizers.bundled import BUNDLED, PACKAGES
from zoo.optimizers.chosen import OPTIMIZERS, SCHEDULES, Chosen
from zoo.optimizers.joint import Joint, parts_of
from zoo.options.checks import check_values
from zoo.options.config import TrainConfig
from zoo.testing import schedules
from zoo.testing.optimizers import CHECKS, check_optimizer
from zoo.testing.tiny import make_model, tiny_rows
from zoo.training.step import schedule as step_schedule
from zoo.training.step.module import PostTraining
from zoo.training.step.schedule import parameter_groups

HERE = [name for name in BUNDLED if name not in PACKAGES]
"""Those that need no further package."""
LR, DECAY = 0.1, 0.2
PAGE = (Path(__file__).parent.parent / "docs" / "optimizers.md").read_text(encoding="utf-8")


def make(text, learners, **options):
    groups = parameter_groups(learners, TrainConfig(**{"lr": LR, "weight_decay": DECAY, **options}))
    return step_schedule.make_optimizer(OPTIMIZERS.choose(text, OPTIMIZERS.bundled), groups)


def gradients(shape, steps=3):
    source = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=source, dtype=torch.float64) for _ in range(steps)]


def after_three_steps(text, start):
    """A weight matrix after three steps by `gradients`."""
    layer = torch.nn.Linear(*reversed(start.shape), bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(start)
    optimizer = make(text, {"policy": layer})
    for gradient in gradients(start.shape):
        layer.weight.grad = gradient.clone()
        optimizer.step()
    return layer.weight.detach()


START = torch.linspace(-1, 1, 20, dtype=torch.float64).reshape(4, 5)


# -- formulas: the first three steps, in numbers from elsewhere --------------------------------------------------------


def adamw(beta1=0.9, beta2=0.999, eps=1e-8):
    """Algorithm 2 of arXiv:1711.05101 with the rate in front of the decay, as torch has it."""
    w, m, v = START.clone(), torch.zeros_like(START), torch.zeros_like(START)
    for t, g in enumerate(gradients(START.shape), start=1):
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        step = (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + eps)
        w = w - LR * (step + DECAY * w)
    return w


def lion(beta1=0.9, beta2=0.99):
    """Algorithm 2 of arXiv:2302.06675."""
    w, m = START.clone(), torch.zeros_like(START)
    for g in gradients(START.shape):
        w = w - LR * (torch.sign(beta1 * m + (1 - beta1) * g) + DECAY * w)
        m = beta2 * m + (1 - beta2) * g
    return w


def rmsprop(alpha=0.99, eps=1e-8):
    """Hinton's lecture 6e; the decay is part of the gradient."""
    w, v = START.clone(), torch.zeros_like(START)
    for g in gradients(START.shape):
        g = g + DECAY * w
        v = alpha * v + (1 - alpha) * g * g
        w = w - LR * g / (v.sqrt() + eps)
    return w


def adafactor(decay=-0.8, clip=1.0, eps=1e-30):
    """Algorithm 4 of arXiv:1804.04235 without a first moment, at a given rate."""
    w, rows, columns = START.clone(), torch.zeros(4, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
    for t, g in enumerate(gradients(START.shape), start=1):
        beta2, square = 1 - t**decay, g * g + eps
        rows = beta2 * rows + (1 - beta2) * square.mean(1)
        columns = beta2 * columns + (1 - beta2) * square.mean(0)
        update = g / torch.outer(rows / rows.mean(), columns).sqrt()
        update = update / max(1.0, float(update.square().mean().sqrt()) / clip)
        w = w - LR * (update + DECAY * w)
    return w


def muon(momentum=0.95, steps=5, nesterov=True):
    """Keller Jordan's zeropower_via_newtonschulz5, with the scale of arXiv:2502.16982, equation 4."""
    a, b, c = 3.4445, -4.7750, 2.0315
    w, m = START.clone(), torch.zeros_like(START)
    for g in gradients(START.shape):
        m = momentum * m + (1 - momentum) * g
        x = ((1 - momentum) * g + momentum * m if nesterov else m).bfloat16()
        x = x / x.norm().clamp(min=1e-7)
        for _ in range(steps):
            product = x @ x.T
            x = a * x + (b * product + c * product @ product) @ x
        w = w * (1 - LR * DECAY) - LR * 0.2 * math.sqrt(max(START.shape)) * x.double()
    return w


@pytest.mark.parametrize("reference", [adamw, lion, rmsprop, adafactor, muon])
def test_the_first_three_steps_are_those_of_the_formula(reference):
    # The products of Muon are rounded to bfloat16, in an order of their own.
    tolerance = {"atol": 5e-3, "rtol": 0} if reference is muon else {}
    torch.testing.assert_close(after_three_steps(reference.__name__, START), reference(), **tolerance)


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("adamw(beta1=0.5, beta2=0.9, eps=0.1)", lambda: adamw(0.5, 0.9, 0.1)),
        ("lion(beta1=0.5, beta2=0.7)", lambda: lion(0.5, 0.7)),
        ("rmsprop(alpha=0.5, eps=0.1)", lambda: rmsprop(0.5, 0.1)),
        ("adafactor(decay=-0.5, clip=0.7)", lambda: adafactor(-0.5, 0.7)),
        ("muon(momentum=0.5, steps=3, nesterov=false)", lambda: muon(0.5, 3, False)),
    ],
)
def test_options_in_brackets_reach_the_formula(text, changed):
    plain = after_three_steps(text.partition("(")[0], START)
    tolerance = {"atol": 5e-3, "rtol": 0} if text.startswith("muon") else {}
    torch.testing.assert_close(after_three_steps(text, START), changed(), **tolerance)
    assert not torch.allclose(plain, changed(), atol=1e-2)


def test_adamw_is_torchs_bit_for_bit():
    layers = [make_model(20, 1) for _ in range(2)]
    decayed, plain = ([p for p in layers[0].parameters() if (p.ndim >= 2) == wanted] for wanted in (True, False))
    theirs = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": DECAY}, {"params": plain, "weight_decay": 0.0}], lr=LR, fused=True
    )
    ours = make("adamw", {"policy": layers[1]})
    for step in range(3):
        source = torch.Generator().manual_seed(step)
        for first, second in zip(layers[0].parameters(), layers[1].parameters(), strict=True):
            first.grad = torch.randn(first.shape, generator=source)
            second.grad = first.grad.clone()
        theirs.step(), ours.step()
    assert all(torch.equal(a, b) for a, b in zip(layers[0].parameters(), layers[1].parameters(), strict=True))


def test_eight_bits_are_those_of_bitsandbytes_and_near_adamw():
    bitsandbytes = pytest.importorskip("bitsandbytes")
    start = torch.linspace(-1, 1, 4096).reshape(64, 64)
    ends = {}
    for name in ("ours", "theirs", "adamw"):
        layer = torch.nn.Linear(64, 64, bias=False)
        with torch.no_grad():
            layer.weight.copy_(start)
        if name == "theirs":
            optimizer = bitsandbytes.optim.AdamW8bit([layer.weight], lr=LR, weight_decay=DECAY)
        else:
            optimizer = make("adamw_8bit" if name == "ours" else "adamw", {"policy": layer})
        for gradient in gradients((64, 64)):
            layer.weight.grad = gradient.float()
            optimizer.step()
        ends[name] = layer.weight.detach()
        if name == "ours":
            assert optimizer.state[layer.weight]["state1"].dtype == torch.uint8
    assert torch.equal(ends["ours"], ends["theirs"])
    gap = (ends["ours"] - ends["adamw"]).abs().mean()
    assert 0 < gap < 0.1 * (ends["adamw"] - start).abs().mean()


# -- which weights ----------------------------------------------------------------------------------------------------


def taken_by_muon(model):
    optimizer = make("muon", {"policy": model})
    muon, _ = parts_of(optimizer)
    taken = {id(p) for group in muon.param_groups for p in group["params"]}
    return {name for name, p in model.named_parameters() if id(p) in taken}


def test_muon_takes_matrices_inside_the_network_and_adamw_the_others():
    untied = make_model(20, 1)
    untied.config.tie_word_embeddings = False
    untied.lm_head.weight = torch.nn.Parameter(untied.lm_head.weight.detach().clone())
    for model in (make_model(20, 1), untied):
        matrices = {name for name, p in model.named_parameters() if p.ndim == 2}
        assert taken_by_muon(model) == matrices - {"model.embed_tokens.weight", "lm_head.weight"}
    tiny = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=20, n_positions=8))
    assert taken_by_muon(tiny) == {
        f"transformer.h.0.{part}.weight" for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    }


def test_a_model_without_hidden_matrices_leaves_all_to_adamw():
    optimizer = make("muon", {"policy": torch.nn.Sequential(torch.nn.Embedding(3, 2), torch.nn.LayerNorm(2))})
    assert [type(part).__name__ for part in parts_of(optimizer)] == ["AdamW"]


def test_the_others_of_muon_have_a_rate_of_their_own_on_request():
    model = torch.nn.Sequential(torch.nn.Embedding(3, 4), torch.nn.Linear(4, 4))
    optimizer = make("muon(others_lr=0.5)", {"policy": model}, lr=2.0)
    assert [group["lr"] for group in optimizer.param_groups] == [2.0, 1.0, 1.0]


def test_several_optimizers_share_groups_and_state_also_after_loading():
    first, second = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    joint = Joint([torch.optim.SGD([first], lr=1.0, momentum=0.9), torch.optim.AdamW([second], lr=1.0)])
    for parameter in (first, second):
        parameter.grad = torch.ones(2)
    joint.step()
    joint.load_state_dict(joint.state_dict())
    assert [part.param_groups for part in joint.parts] == [[group] for group in joint.param_groups]
    assert all(part.param_groups[0] is group for part, group in zip(joint.parts, joint.param_groups, strict=True))
    assert set(joint.state) == {first, second} and all(part.state is joint.state for part in joint.parts)
    joint.param_groups[0]["lr"] = 0.0
    before = first.detach().clone()
    joint.step()
    assert torch.equal(first, before)


def test_a_group_knows_names_roles_and_which_matrices_are_hidden():
    learners = {"policy": torch.nn.Sequential(torch.nn.Embedding(3, 4), torch.nn.Linear(4, 4)),
                "critic": torch.nn.Linear(4, 1)}  # fmt: skip
    groups = parameter_groups(learners, TrainConfig(lr=1.0, critic_lr=3.0, weight_decay=0.1))
    assert [(group.role, group.lr, group.weight_decay, group.names, group.hidden) for group in groups] == [
        ("policy", 1.0, 0.1, ("0.weight", "1.weight"), (False, True)),
        ("policy", 1.0, 0.0, ("1.bias",), (False,)),
        ("critic", 3.0, 0.1, ("weight",), (False,)),
        ("critic", 3.0, 0.0, ("bias",), (False,)),
    ]


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "text", "says"),
    [
        (OPTIMIZERS, "adam", "No optimizer is called 'adam'. Did you mean 'adamw'"),
        (OPTIMIZERS, "lion(eps=1)", "The optimizer 'lion' has no option 'eps'"),
        (OPTIMIZERS, "adamw(beta1=1)", "option beta1 = 1: Input should be less than 1"),
        (OPTIMIZERS, "adamw(eps=nan)", "option eps = nan"),
        (OPTIMIZERS, "muon(scale=big)", "option scale = big"),
        (OPTIMIZERS, "./mine.py:sgd", "is a file, and --optimizer takes the name of an optimizer"),
        (SCHEDULES, "cosin", "No schedule is called 'cosin'. Did you mean 'cosine'"),
        (SCHEDULES, "cosine(decay_share=0.1)", "The schedule 'cosine' has no option 'decay_share'"),
        (SCHEDULES, "wsd(decay_share=1.5)", "option decay_share = 1.5"),
        (SCHEDULES, "wsd(", "The schedule 'wsd\\(' cannot be read"),
    ],
)
def test_a_wrong_text_is_refused_by_name(kind, text, says):
    with pytest.raises(ZooError, match=says):
        kind.choose(text, kind.bundled)


def plugins(function, kind=OPTIMIZERS):
    return kind.choose("mine", {"mine": function})


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda groups: 3, "is int, no torch.optim.Optimizer"),
        (lambda groups: torch.optim.SGD(groups[0].parameters, lr=1), r"The optimizer 'mine' lacks policy\.0\.bias"),
        (lambda groups: torch.optim.SGD([torch.nn.Parameter(torch.ones(1)), *every(groups)], lr=1), "not trained"),
    ],
)
def test_an_optimizer_of_a_plugin_must_take_every_weight(function, says):
    learners = {"policy": torch.nn.Sequential(torch.nn.Linear(2, 2))}
    with pytest.raises(PluginError, match=says):
        step_schedule.make_optimizer(plugins(function), parameter_groups(learners, TrainConfig()))


def every(groups):
    return [p for group in groups for p in group.parameters]


def test_an_option_that_the_optimizer_itself_refuses_is_a_mistake_of_the_user():
    def picky(groups: list[ParameterGroup]):
        raise ValueError("no such thing")

    with pytest.raises(ZooError, match="The optimizer 'mine' cannot be used: no such thing"):
        step_schedule.make_optimizer(plugins(picky), [])


def test_a_plugin_cannot_take_the_name_of_a_bundled_one():
    with pytest.raises(PluginError, match="test_optimizers registers the optimizer 'lion', which zoo has itself"):
        OPTIMIZERS.available({"lion": lambda groups: None})


@pytest.mark.parametrize("name", PACKAGES)
def test_a_missing_package_is_told_before_anything_is_loaded(name, monkeypatch, tmp_path, tiny_folder):
    monkeypatch.setattr("zoo.optimizers.bundled.find_spec", lambda package: None)
    with pytest.raises(ZooError, match=f"The optimizer {name} needs bitsandbytes") as error:
        trainer(tmp_path, tiny_folder)("sft", data="nowhere.jsonl", optimizer=name)
    assert "pip install bitsandbytes" in error.value.hint


# -- in runs -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def train(tmp_path, tiny_folder):
    train = trainer(tmp_path, tiny_folder)
    data = write_rows(tmp_path / "rows.jsonl", tiny_rows("demonstration", 12))
    options = {"data": data, "batch_size": 4, "epochs": 2, "score": "none", "eval_fraction": 0.0, "lr": 1e-3}
    return lambda algo="sft", **more: train(algo, **{**options, **more})


def weights(run):
    return run.load()[0].state_dict()


class Killed(Exception):
    pass


def break_off(train, monkeypatch, **options):
    """A run that is killed in its fourth step."""
    real = PostTraining.training_step

    def dies(self, batch, index):
        if self.steps_done == 3:
            raise Killed
        return real(self, batch, index)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(PostTraining, "training_step", dies)
        train(name="broken", save_every=1, **options)


@pytest.mark.parametrize("name", [*HERE, "adamw_8bit"])
def test_a_run_killed_and_resumed_ends_with_the_same_bits(name, train, tmp_path, monkeypatch):
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name])
    whole = train(name="whole", save_every=1, optimizer=name)
    break_off(train, monkeypatch, optimizer=name)
    resumed = zoo.resume(tmp_path / "runs" / "broken", quiet=True)
    assert (resumed.path / "metrics.jsonl").read_bytes() == (whole.path / "metrics.jsonl").read_bytes()
    ended = weights(resumed)
    assert all(torch.equal(value, ended[name]) for name, value in weights(whole).items())


def test_a_joint_optimizer_tells_who_takes_what(train, capsys):
    train(optimizer="muon", max_steps=1, quiet=False)
    told = capsys.readouterr().out.replace("\n", " ")
    assert "Optimizer muon: Muon for " in told and " and AdamW for " in told


def test_the_options_of_an_optimizer_may_change_in_a_resume_and_the_optimizer_may_not(train, tmp_path, monkeypatch):
    break_off(train, monkeypatch)
    file = tmp_path / "runs" / "broken" / "run.yaml"
    text = file.read_text()
    for optimizer in ("lion", "adamw(beta1=0.5)"):
        file.write_text(text.replace("optimizer: adamw", f"optimizer: {optimizer}"))
        with pytest.raises(ZooError, match=f"optimizer was adamw, is {optimizer[:4]}"):
            zoo.resume(file.parent, quiet=True)
    run = zoo.resume(file.parent, quiet=True, allow_change=["optimizer"])
    assert run.status == "finished"


def test_another_optimizer_cannot_go_on_from_a_checkpoint(train, tmp_path, monkeypatch):
    break_off(train, monkeypatch)
    file = tmp_path / "runs" / "broken" / "run.yaml"
    file.write_text(file.read_text().replace("optimizer: adamw", "optimizer: lion"))
    with pytest.raises(ZooError, match="hold the state of adamw, with which lion cannot go on"):
        zoo.resume(file.parent, quiet=True, allow_change=["optimizer"])


def test_former_options_are_understood_and_told(train, capsys):
    now = train(optimizer="adamw(beta1=0.8, beta2=0.95, eps=1e-05)", schedule="wsd(decay_share=0.5)", name="now")
    before = train(
        adam_beta1=0.8, adam_beta2=0.95, adam_eps=1e-5, schedule="wsd", decay_share=0.5, name="before", quiet=False
    )
    assert before.config["optimizer"] == now.config["optimizer"] and before.config["schedule"] == now.config["schedule"]
    assert before.log_history == now.log_history
    told = capsys.readouterr().out.replace("\n", " ")
    assert "adam_beta2 (keyword argument) belongs to adamw by now: write optimizer 'adamw(beta1=0.8, beta2=0.95" in told
    with pytest.raises(
        ZooError, match=r"Option 'adam_beta2' \(keyword argument\) is one of adamw, but the optimizer is"
    ):
        train(optimizer="lion", adam_beta2=0.9)


def test_a_rate_that_was_found_with_another_optimizer_is_told(train, capsys):
    train(optimizer="lion", max_steps=1, quiet=False, lr=None)
    told = "was found with AdamW; this run has lion. Try others."
    assert told in capsys.readouterr().out.replace("\n", " ")
    train(optimizer="lion", max_steps=1, quiet=False, lr=1e-4)
    assert "this run has lion" not in capsys.readouterr().out


# -- commands and checks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("command", "kind"), [("optimizers", OPTIMIZERS), ("schedules", SCHEDULES)])
def test_they_are_listed_with_their_options(command, kind):
    rows = json.loads(cli(command, "--json")[1])
    assert [row["name"] for row in rows] == list(kind.bundled)
    assert all(row["description"] for row in rows)
    last = list(kind.bundled)[-1]
    assert json.loads(cli(command, last, "--json")[1]) == rows[-1]
    status, _, error = cli(command, "cosin")
    assert status == 2 and f"No {kind.what} is called 'cosin'" in error


@pytest.mark.parametrize("name", [*HERE, "adamw_8bit"])
def test_a_bundled_optimizer_passes_each_check(name):
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name])
    assert [result.detail for result in check_optimizer(name) if result.result != "passed"] == []


LACKING = {
    "paged_adamw_8bit": ("torch.cuda.is_available", lambda: False, "torch sees no GPU here."),
    "adamw_8bit": (
        "zoo.optimizers.bundled.find_spec",
        lambda name: None,
        "needs bitsandbytes, which is not installed.",
    ),
    "muon": ("torch.optim.Muon", None, "needs torch 2.9, and this is"),
}


@pytest.mark.parametrize("name", LACKING)
def test_what_an_optimizer_lacks_here_is_told_before_anything_is_loaded_and_by_its_checks(
    train, tiny_folder, monkeypatch, name
):
    place, instead, said = LACKING[name]
    if name == "muon":
        monkeypatch.delattr(place, raising=False)
    else:
        monkeypatch.setattr(place, instead)
    if name == "paged_adamw_8bit":
        pytest.importorskip("bitsandbytes")
    monkeypatch.setattr("zoo.training.execution.Execution", None)
    with pytest.raises(ZooError, match=said) as error:
        train(optimizer=name)
    assert error.value.hint
    status, _, told = cli("train", "--model", str(tiny_folder), "--optimizer", name, "--dry-run")
    assert status == 2 and said in " ".join(told.split())
    status, out, _ = cli("check", name, "--json")
    results = {(one["result"], said in one["detail"]) for one in json.loads(out)["checks"]}
    assert status == 0 and results == {("skipped", True)}


@pytest.mark.parametrize("name", ["adamw_8bit", "paged_adamw_8bit"])
def test_optimizers_of_bitsandbytes_are_refused_where_weights_are_shared_out(name):
    with pytest.raises(ZooError, match=f"The optimizer {name} is bitsandbytes', which cannot read weights"):
        check_values(TrainConfig(optimizer=name, strategy="fsdp", devices=2), {})


@pytest.mark.parametrize("name", SCHEDULES.bundled)
def test_a_bundled_schedule_passes_each_check(name):
    assert [result.detail for result in schedules.check_schedule(name) if result.result != "passed"] == []


def rows_of(page):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("|")]


def test_the_page_tells_every_optimizer_and_schedule_with_its_options():
    rows = {row[0].strip("`"): row[1] for row in rows_of(PAGE) if len(row) in (3, 4)}
    for kind in (OPTIMIZERS, SCHEDULES):
        for name, function in kind.bundled.items():
            assert rows[name] == ", ".join(f"`{o.name}={o.default}`" for o in kind.options_of(function))


def test_the_page_tells_every_check_in_its_own_words():
    _, *tables = PAGE.split("| check | what it requires |\n|---|---|\n")
    for table, checks in zip(tables, (CHECKS, schedules.CHECKS), strict=True):
        rows = rows_of(table.split("\n\n")[0])
        assert rows == [[name, " ".join(check.__doc__.split())] for name, check in checks.items()]


def test_the_plugin_of_the_page_passes_the_checks(tmp_path):
    (code,) = re.findall(r"<!-- signs.py -->\n```python\n(.*?)```", PAGE, flags=re.S)
    (tmp_path / "signs.py").write_text(code)
    results = check_optimizer(f"{tmp_path / 'signs.py'}:signs")
    assert {result.result for result in results} == {"passed"}
    assert {one.result for one in schedules.check_schedule(f"{tmp_path / 'signs.py'}:stairs")} == {"passed"}
    module = import_file(tmp_path / "signs.py")
    assert [module.stairs(step, 10, 2) for step in (2, 5, 6, 9)] == [1.0, 1.0, 0.5, 0.5]


COUNTING = '''
import torch

class Counting(torch.optim.SGD):
    n = 0

    def step(self, closure=None):
        self.n += 1
        if self.n % {every}:
            return super().step(closure)

def counting(groups, momentum: float):
    """Descent that rests now and then, and forgets when."""
    return Counting([group.options() for group in groups], momentum=momentum)
'''


@pytest.mark.parametrize("every", [4, 10])
def test_what_happens_every_few_steps_and_is_not_saved_is_caught(tmp_path, every):
    (tmp_path / "counting.py").write_text(COUNTING.format(every=every))
    results = check_optimizer(f"{tmp_path / 'counting.py'}:counting(momentum=0.5)", ["restored"])
    assert [result.result for result in results] == ["failed"]


@pytest.mark.parametrize(
    ("options", "message"),
    [("", "The optimizer 'counting' needs momentum."), ("(momentun=1)", "has no option 'momentun'. Did you mean 'mom")],
)
def test_the_options_of_a_file_are_checked_as_those_of_a_name(tmp_path, options, message):
    (tmp_path / "counting.py").write_text(COUNTING.format(every=3))
    with pytest.raises(ZooError) as caught:
        check_optimizer(f"{tmp_path / 'counting.py'}:counting{options}")
    assert message in caught.value.message


def test_the_first_check_that_fails_is_the_one_for_the_fault():
    file = Path(__file__).parent / "broken_plugins" / "optimizer_groups.py"
    results = list(check_optimizer(f"{file}:broken"))
    assert next(result.check for result in results if result.result == "failed") == "groups"


def test_a_chosen_one_is_called_with_its_options():
    assert Chosen("mine", lambda step, total, warmup, k: step * k, {"k": 3})(2, 10, 0) == 6
