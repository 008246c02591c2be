"""A good recipe, and mistakes that can be made in it: not a test file itself."""

GOOD = """\
title: A small one
paper: {arxiv: "2402.01306", version: v2}
hardware: not reported
about: Why it should work.
common: {epochs: 1, limit: 64}
stages:
  sft:
    algo: sft
    start: tiny
    data: starter
    lr: 1e-3   # Table 1
  labels:
    label: {data: starter, judge: stage:sft, limit: 8}
  rm:
    algo: rm
    start: stage:sft
    data: stage:labels
    evals: {accuracy: pair_accuracy}
  kto:
    algo: kto
    start: stage:sft
    data: starter
    lr: 5.0e-4
    sweep: {beta: [0.05, 0.10]}
  ppo:
    algo: ppo
    start: stage:kto(beta=0.1)
    data: starter
    reward: "0.5*stage:rm + instructions"
evals:
  hits: instructions
claims:
  - says: It rises
    metric: kto(beta=0.1).hits
    baseline: sft.hits
    by: 0.1
    where: Table 2
  - {says: In order, orders: [sft.hits, kto(*).hits], where: Figure 1}
  - {says: People like it, untested: it needs people, where: section 5}
laptop:
  tests: one against the other
  minutes: 2
  caveat: tiny
  stages:
    sft: {algo: sft, start: tiny, data: starter, lr: 1e-3}
  claims:
    - {id: loss, says: Loss falls, metric: sft.val/loss, below: 9, where: nowhere}
"""

# What stands in the file, what is written instead, and what is said about it with its line.
MISTAKES = {
    "unknown key at the top": ("about: Why", "abuot: Why", "abuot", "unknown key 'abuot'. Did you mean 'about'?"),
    "unknown key of the paper": ("version: v2", "versoin: v2", "versoin", "'versoin'. Did you mean 'version'?"),
    "unknown key of a claim": ("where: Table 2", "wehre: Table 2", "wehre", "'wehre'. Did you mean 'where'?"),
    "unknown key of the laptop": ("  caveat: tiny", "  caveta: tiny", "caveta", "'caveta'. Did you mean 'caveat'?"),
    "key twice": ("hardware: not", "title: again\nhardware: not", "title: again", "the key 'title' occurs twice"),
    "missing key": ("hardware: not reported\n", "", "title: A small", None),
    "missing key of a claim": ("    where: Table 2\n", "", "says: It rises", "the key 'claims.0.where' is missing"),
    "arXiv id as a number": ('"2402.01306"', "2402.01306", "2402.0", "not 2402.01306. Put it in quotes."),
    "no arXiv id": ('"2402.01306"', '"2402.1"', "2402.1", "'2402.1' is not an arXiv id"),
    "no number": ("by: 0.1", "by: much", "much", "claims.0.by must be a valid number, not 'much'"),
    "no list": ("orders: [sft.hits, kto(*).hits]", "orders: sft.hits", "In order", "claims.1.orders must be a list"),
    "no stages": ("stages:\n  sft:\n    algo: sft\n", "stagse:\n  sft:\n    algo: sft\n", "stagse", "'stages'"),
    "an empty stage": (
        "  labels:\n    label: {data",
        "  empty:\n  labels:\n    label: {data",
        "empty:",
        "must be a mapping",
    ),
    "name of a stage": ("  rm:\n", "  r m:\n", "r m:", "'r m' cannot name a stage"),
    "option of no algorithm": (
        "    lr: 5.0e-4",
        "    bta: 5.0e-4",
        "bta",
        "'bta' is not an option of the algorithm kto. Did you mean 'beta'?",
    ),
    "option as others call it": ("    lr: 5.0e-4", "    learning_rate: 5.0e-4", "learning_rate", "Did you mean 'lr'?"),
    "key of a stage misspelt": (
        "    sweep: {beta",
        "    swep: {beta",
        "start: stage:kto",
        "'kto' is one stage and not swept, so there is no 'kto(beta=0.1)'. Its sweep may be 'swep'?",
    ),
    "option of another algorithm": (
        "    lr: 1e-3   #",
        "    beta: 0.1   #",
        "beta: 0.1   #",
        "'beta' is not an option of the algorithm sft.",
    ),
    "wrong type": ("5.0e-4", "often", "lr: often", "Option 'lr' of zoo train must be float, got 'often'"),
    "impossible value": ("5.0e-4", "-1.0", "lr: -1.0", "Option 'lr' must be 0 or more"),
    "common option": (
        "{epochs: 1,",
        "{epohcs: 1,",
        "epohcs",
        "'epohcs' is not an option of every algorithm. Did you mean 'epochs'?",
    ),
    "an algorithm's own option for all": ("{epochs: 1,", "{beta: 1,", "{beta: 1", "own options in its stages"),
    "model instead of start": (
        "    start: tiny\n    data",
        "    model: tiny\n    data",
        "model: tiny",
        "'model' is not for recipes: write `start`",
    ),
    "out": ("{epochs: 1,", "{out: x,", "{out", "'out' is not for recipes"),
    "no start": ("    start: tiny\n    data", "    data", "  sft:\n", None),
    "unknown algorithm": ("algo: kto", "algo: kot", "algo: kot", "No algorithm is called 'kot'. Did you mean 'kto'?"),
    "swept wrong option": (
        "{beta: [0.05",
        "{bata: [0.05",
        "start: stage:kto",
        "'kto' is swept; its stages are kto(bata=0.05), kto(bata=0.1), not 'kto(beta=0.1)'",
    ),
    "swept text that is no name": ("{beta: [0.05, 0.10]}", '{data: ["a(b=1)"]}', "a(b=1)", "Name the values"),
    "name of a swept value": (
        "{beta: [0.05, 0.10]}",
        "{beta: {a b: 1.0}}",
        "{a b: 1.0}",
        "'a b' cannot be part of a stage's name",
    ),
    "an order of one": ("[sft.hits, kto(*).hits]", "[sft.hits]", "In order", "orders compares two metrics or more"),
    "swept algorithm": ("{beta: [0.05, 0.10]}", "{algo: [kto, dpo]}", "algo: [", "'algo' cannot be swept"),
    "a value swept twice": ("[0.05, 0.10]", "[0.1, 0.1]", "[0.1, 0.1]", "0.1 is twice in the sweep of 'beta'"),
    "an option beside its sweep": (
        "    sweep: {beta",
        "    beta: 0.3\n    sweep: {beta",
        "beta: 0.3",
        "'beta' is swept below, so this value is never used",
    ),
    "a sweep without values": ("[0.05, 0.10]", "[]", "[]", "the sweep of 'beta' has no values"),
    "missing stage": (
        "judge: stage:sft",
        "judge: stage:stf",
        "stage:stf",
        "There is no stage 'stf'. Did you mean 'sft'?",
    ),
    "missing stage in a reward": (
        "stage:rm + ins",
        "stage:rmm + ins",
        "stage:rmm",
        "There is no stage 'rmm'. Did you mean 'rm'?",
    ),
    "point that is not swept": (
        "stage:kto(beta=0.1)",
        "stage:kto(beta=0.2)",
        "0.2)",
        "its stages are kto(beta=0.05), kto(beta=0.1), not",
    ),
    "a sweep as a start": ("stage:kto(beta=0.1)", "stage:kto", "start: stage:kto", "'kto' is swept; its stages are"),
    "data of a stage that trains": (
        "data: stage:labels",
        "data: stage:sft",
        "data: stage:sft",
        "the stage 'sft' makes no data",
    ),
    "model of a stage that labels": (
        "stage:kto(beta=0.1)",
        "stage:labels",
        "start: stage:labels",
        "makes data, but 'start' needs a model",
    ),
    "a stage that stands below": (
        "judge: stage:sft",
        "judge: stage:kto(beta=0.1)",
        "judge: stage:kto",
        "which is below it: move it up",
    ),
    "a cycle": (
        "    start: tiny\n    data: starter\n    lr: 1e-3",
        "    start: stage:rm\n    data: starter\n    lr: 1e-3",
        "    start: stage:rm",
        "'sft' and 'rm' need each other",
    ),
    "itself": (
        "    start: tiny\n    data: starter\n    lr: 1e-3",
        "    start: tiny\n    data: starter\n    reference: stage:sft",
        "reference: stage:sft",
        "'sft' and 'sft' need each other",
    ),
    "option of labelling": (
        "limit: 8}",
        "limti: 8}",
        "limti",
        "`zoo label` has no option 'limti'. Did you mean 'limit'?",
    ),
    "pairs from a teacher": (
        "judge: stage:sft, limit: 8}",
        "teacher: stage:sft, limit: 8}",
        "data: stage:labels",
        "labels make data of kind 'demonstration', but kind 'preference'",
    ),
    "type of labelling": ("limit: 8}", "limit: few}", "few", "Option 'limit'"),
    "option beside label": (
        "    label: {data",
        "    lr: 1.0\n    label: {data",
        "lr: 1.0",
        "'lr' is not allowed next to `label`",
    ),
    "label and algo": (
        "    label: {data",
        "    algo: sft\n    label: {data",
        "label: {data",
        "`algo` or `label`, not both",
    ),
    "unknown evaluation": (
        "hits: instructions\n",
        "hits: instrutcions\n",
        "hits: instrut",
        "No evaluation is called 'instrutcions'. Did you mean 'instructions'?",
    ),
    "option of an evaluation": (
        "hits: instructions\n",
        "hits: instructions(smaples=3)\n",
        "hits: instr",
        "'instructions' has no option 'smaples'",
    ),
    "spelling of an evaluation": ("hits: instructions\n", "hits: instructions(\n", "hits: instr", "cannot be read"),
    "missing option of an evaluation": (
        "hits: instructions\n",
        "hits: lm_eval(fewshot=3)\n",
        "hits: lm_eval",
        "The evaluation 'lm_eval' needs task",
    ),
    "detail of an evaluation": ("sft.hits\n", "sft.hits.often\n", "baseline", "'sft' has no metric 'hits.often'"),
    "evaluation of another model": (
        "accuracy: pair_accuracy",
        "accuracy: instructions",
        "accuracy: instr",
        "'instructions' is for a language model, but this is a reward model",
    ),
    "unknown reward": (
        "+ instructions",
        "+ instrutcions",
        "+ instrut",
        "there is no reward 'instrutcions'. Did you mean 'instructions'?",
    ),
    "reward that cannot be read": ("+ instructions", "+ + )", "+ + )", "this bracket closes none"),
    "model that no plugin makes": (
        "    start: tiny\n    data: starter\n    lr: 1e-3",
        '    start: "wold(seed=1)"\n    data: starter\n    lr: 1e-3',
        "wold(",
        "no plugin makes a model 'wold'",
    ),
    "world that is none": (
        "    start: tiny\n    data: starter\n    lr: 1e-3",
        '    start: "world:gld"\n    data: starter\n    lr: 1e-3',
        "world:gld",
        "No world is called 'gld'. Did you mean 'gold'?",
    ),
    "option of a world's model": (
        "    start: tiny\n    data: starter\n    lr: 1e-3",
        '    start: "world:gold(seeds=1)"\n    data: starter\n    lr: 1e-3',
        "seeds",
        "Did you mean 'seed'?",
    ),
    "world misspelt": (
        "    start: tiny\n    data: starter\n    lr: 1e-3",
        '    start: "wrold:gold"\n    data: starter\n    lr: 1e-3',
        "wrold",
        "no plugin makes a model 'wrold'. Did you mean 'world'?",
    ),
    "folder that is not there": (
        "    start: tiny\n    data: starter\n    lr: 1e-3",
        '    start: "./nosuch/model"\n    data: starter\n    lr: 1e-3',
        "nosuch",
        "there is no model at ./nosuch/model",
    ),
    "default model misspelt": (
        "    start: tiny\n    data: starter\n    lr: 1e-3",
        '    start: "smollm2-135mm"\n    data: starter\n    lr: 1e-3',
        "135mm",
        "there is no model 'smollm2-135mm'. Did you mean 'smollm2-135m'?",
    ),
    "a reward model that should write": (
        "stage:kto(beta=0.1)",
        "stage:rm",
        "start: stage:rm",
        "stage rm makes a reward model, but ppo needs a model that writes answers",
    ),
    "a language model as a reward": (
        "stage:rm + ins",
        "stage:sft + ins",
        "stage:sft + ins",
        "stage sft makes a language model, not a reward model",
    ),
    "data that is not there": (
        "    data: starter\n    lr: 5.0e-4",
        "    data: statrer\n    lr: 5.0e-4",
        "statrer",
        "data source 'statrer' in this folder. Did you mean 'starter'?",
    ),
    "kind of a format": (
        "    data: starter\n    lr: 5.0e-4",
        "    data: a/b\n    format: alpaca",
        "data: a/b",
        "format alpaca is data of kind 'demonstration', but kind 'feedback'",
    ),
    "unknown format": (
        "    data: starter\n    lr: 5.0e-4",
        "    data: a/b\n    format: alpcaa",
        "data: a/b",
        "Did you mean 'alpaca'?",
    ),
    "kind of columns": (
        "    data: starter\n    lr: 5.0e-4",
        "    data: a/b\n    columns: {prompt: q, completion: a}",
        "data: a/b",
        "its columns (prompt, completion) are data of kind 'demonstration'",
    ),
    "claim on a missing stage": (
        "baseline: sft.hits",
        "baseline: stf.hits",
        "stf.hits",
        "There is no stage 'stf'. Did you mean 'sft'?",
    ),
    "claim on a missing metric": (
        "baseline: sft.hits",
        "baseline: sft.hist",
        "sft.hist",
        "no stage produces 'sft.hist': 'sft' has no metric 'hist'. Did you mean 'hits'?",
    ),
    "claim on a metric of training": ("sft.val/loss", "sft.val/losss", "losss", "Did you mean 'val/loss'?"),
    "claim in an order": ("[sft.hits,", "[sft.hist,", "sft.hist", "'sft' has no metric 'hist'"),
    "claim without a stage": ("baseline: sft.hits", "baseline: hits", "It rises", "'hits' is not STAGE.METRIC"),
    "claim with two rules": ("by: 0.1", "by: 0.1\n    above: 1", "It rises", "it has above and by"),
    "claim without a rule": ("    by: 0.1\n", "", "It rises", "it has none"),
    "claim without a baseline": ("    baseline: sft.hits\n", "", "It rises", "by needs baseline"),
    "claim without an id": ("{id: loss, says", "{says", "laptop:", "the claim 'Loss falls' has no id: add one"),
    "claim with a wrong id": ("id: loss", "id: The Loss", "The Loss", "is not made of small letters"),
    "order that falls": ("orders: [sft", "by: -1, orders: [sft", "In order", "by is a number above 0 for orders"),
    "number without its tolerance": ("below: 9,", "paper: 9,", "Loss falls", "paper needs within"),
    "the paper's number on a laptop": (
        "below: 9,",
        "paper: 9, within: 1,",
        "Loss falls",
        "a smaller experiment cannot claim the paper's number",
    ),
    "at without a sweep": (
        "below: 9,",
        "below: 9, at: {metric: sft.loss, value: 1},",
        "Loss falls",
        "write it as STAGE(*).METRIC",
    ),
}
