"""The bundled evaluations, registered like those of any plugin; evaluations for one data set are in its plugin."""

from __future__ import annotations

from typing import Any

from zoo.contract.hookspecs import hookimpl


@hookimpl
def evals() -> dict[str, Any]:
    return {**_of_given_answers(), **_of_own_answers(), **_of_changes(), **_of_reward_models(), **_of_others()}


@hookimpl
def models() -> dict[str, Any]:
    from zoo.evals.soup import NamedSoups

    return {"soup": NamedSoups()}


def _of_given_answers() -> dict[str, Any]:
    from zoo.evals import Eval
    from zoo.evals.calibration import calibration
    from zoo.evals.given import heldout_loss, preference_accuracy
    from zoo.evals.losses import perplexity

    return {
        "heldout_loss": Eval(
            "Negative log-likelihood per token of held-out demonstrations.", heldout_loss,
            details=("tokens", "perplexity"),
        ),
        "perplexity": Eval(
            "e to the negative log-likelihood per token, of texts or of given answers.", perplexity,
            details=("loss", "tokens"), by_default=False,
        ),
        "preference_accuracy": Eval(
            "Share of held-out pairs whose chosen answer is likelier per token.", preference_accuracy
        ),
        "calibration": Eval(
            "Expected calibration error on multiple-choice questions, with and without temperature scaling.",
            calibration, by_default=False,
            details=("accuracy", "confidence", "error_by_chance", "log_loss", "brier", "temperature", "error_unscaled",
                     "error_scaled"),
        ),
    }  # fmt: skip


def _of_own_answers() -> dict[str, Any]:
    from zoo.evals import Eval
    from zoo.evals.best_of import best_of_n, sampled_reward
    from zoo.evals.diversity import diversity
    from zoo.evals.episodes import episodes
    from zoo.evals.ifeval import NUMBERS, ifeval
    from zoo.evals.verified import accuracy, maj_at_k, pass_at_k
    from zoo.evals.win_rate import win_rate

    counts = ("missing", "mean_tokens")
    of_k = ("accuracy", "pass_at_k", "maj_at_k", "pass_at_*", "samples", "left_out", *counts)
    kinds = ("distinct", "ead", "self_bleu")
    return {
        "accuracy": Eval(
            "Share of prompts whose answer a reward finds right.", accuracy, details=counts, by_default=False
        ),
        "episodes": Eval(
            "Mean reward of episodes with an environment.", episodes,
            details=("missing", "turns", "mean_tokens", "cut"), by_default=False,
        ),
        "ifeval": Eval(
            "Share of IFEval's prompts whose instructions are all followed, by its checkers.", ifeval,
            details=(*NUMBERS, *counts), by_default=False,
        ),
        "pass_at_k": Eval(
            "Probability that one of k sampled answers is right.", pass_at_k, details=of_k, by_default=False
        ),
        "maj_at_k": Eval(
            "How often the majority answer of k samples is right.", maj_at_k, details=of_k, by_default=False
        ),
        "sampled_reward": Eval(
            "Mean reward of sampled answers, such as a gold reward.", sampled_reward,
            details=("reward_std", "answers", *counts), by_default=False,
        ),
        "best_of_n": Eval(
            "Gold reward of the best of n answers by another reward, for several n.", best_of_n,
            details=("gold_*", "proxy_*", "kl_*", "alone_*", "peak", "peak_n", "drop", "alpha", "beta", "pool",
                     "missing", "left_out"),
            by_default=False,
        ),
        "win_rate": Eval(
            "How often its answer beats the start's, or the data's, by a judge in both orders or by a reward.",
            win_rate,
            details=("won", "tied", "lost", "length_controlled", "length_controlled_low", "length_controlled_high",
                     "length_effect", "characters", "characters_other", "order_decides", "missing"),
            by_default=False,
        ),
        "diversity": Eval(
            "How different sampled answers are: distinct n-grams, EAD, self-BLEU, per prompt and across.", diversity,
            details=(*(f"{kind}_per_input" for kind in kinds), *(f"{kind}_across" for kind in kinds), "mean_tokens",
                     "without_ngram"),
            by_default=False,
        ),
    }  # fmt: skip


def _of_changes() -> dict[str, Any]:
    from zoo.evals import Eval
    from zoo.evals.losses import forgetting, kl

    return {
        "kl": Eval(
            "KL to the start, in nats per answer.", kl, details=("per_token", "mean_tokens"), by_default=False
        ),
        "forgetting": Eval(
            "How much the negative log-likelihood per token has risen since the start.", forgetting,
            details=("loss", "loss_of_start", "tokens"), by_default=False,
        ),
    }  # fmt: skip


def _of_reward_models() -> dict[str, Any]:
    from zoo.evals import Eval
    from zoo.evals.given import pair_accuracy, ranking_accuracy, step_accuracy

    about = (
        "longer_wins", "shorter_wins", "same_length_accuracy", "same_length_pairs", "mean_margin", "calibration_error",
        "reward_mean", "reward_std", "length_correlation",
    )  # fmt: skip
    return {
        "pair_accuracy": Eval(
            "Share of held-out pairs whose chosen answer has the higher reward.", pair_accuracy, "scalar",
            ("small_margin_accuracy", "large_margin_accuracy", *about),
        ),
        "ranking_accuracy": Eval(
            "Share of pairs of answers to a prompt that the reward orders like their ranks.", ranking_accuracy,
            "scalar", ("pairs", *about),
        ),
        "step_accuracy": Eval(
            "Share of a solution's steps, up to the first wrong one, that a process reward model judges right.",
            step_accuracy, "scalar",
            ("steps", "right_steps", "wrong_steps", "accuracy_of_right", "accuracy_of_wrong", "f1_of_wrong"),
            by_default=False,
        ),
    }  # fmt: skip


def _of_others() -> dict[str, Any]:
    from zoo.evals import Eval
    from zoo.evals.harness import lm_eval
    from zoo.evals.leaderboard import lc_alpacaeval, lc_simulation

    correlations = ("spearman_win_rate", "spearman_length_controlled", "verbosity_win_rate", "verbosity_lc")
    return {
        "lm_eval": Eval("A task of the library lm-eval.", lm_eval, details=("*",), by_default=False),
        "lc_alpacaeval": Eval(
            "Correlation of AlpacaEval's length-controlled win rates with length (needs the package alpaca-eval).",
            lc_alpacaeval, "none", (*correlations, "models_asked"), by_default=False,
        ),
        "lc_simulation": Eval(
            "Whether length-controlled win rates find the true order under a simulated judge that likes length.",
            lc_simulation, "none", ("plain", "length_controlled", "prompts"), by_default=False,
        ),
    }  # fmt: skip
