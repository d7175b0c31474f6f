"""A request for every analysis of the catalogue, small enough for a model of two layers and 32 positions."""

from __future__ import annotations

from typing import Any

from nanogpt_lens.catalogue import ANALYSES

TEXT = "First Citizen:\nBefore we go on, hear me speak.\n\nAll:\nSpeak, speak.\n\n" * 12
PROMPTS = {"clean": "ROMEO: hear me", "corrupted": "JULIE: hear me"}
METRIC = {"name": "logit_diff", "answer": "a", "wrong": "b"}
ASKED: dict[str, Any] = {"prompts": PROMPTS, "metric": METRIC}
HYPOTHESIS = {"logits": {"reads": {"embed": {"depends_on": "token"}}}}
MODELS = {"scrub": "handmade_induction"}
"""The model of an analysis that needs one that can do something."""

BODIES: dict[str, dict[str, Any]] = {
    "score_heads": {"corpus": TEXT, "options": {"n": 8, "seq_len": 12}},
    "head_taxonomy": {"corpus": TEXT, "options": {"n": 8, "seq_len": 12, "thresholds": {"previous_token": 0.2}}},
    "prefix_matching": {"options": {"n": 4, "seq_len": 8, "convention": "olsson"}},
    "find_induction_heads": {"options": {"n": 4, "seq_len": 8}},
    "induction_accuracy": {"options": {"n": 8}},
    "repeated_sequence_loss": {"options": {"n": 4, "seq_len": 8}},
    "induction_composition": {"options": {"n": 4}},
    "ablate_induction_heads": {"options": {"heads": ["1.0"], "n": 4, "seq_len": 8}},
    "composition_scores": {"options": {"mode": "V", "samples": 8}},
    "copying_score": {"options": {"method": "logits", "n": 4, "seq_len": 8}},
    "attention_statistics": {"corpus": TEXT, "options": {"n": 8, "seq_len": 12}},
    "syntax_attention": {"corpus": TEXT, "options": {"n": 8, "seq_len": 12, "classes": ["word_start"]}},
    "attention_patterns": {"text": "ROMEO: hear", "options": {"layers": [1]}},
    "attention_rollout": {"text": "ROMEO: hear", "options": {"heads": "max"}},
    "attention_flow": {"text": "ROMEO: he", "options": {"pos": -1}},
    "task_accuracy": {"task": {"name": "own"}, "options": {"n": 8}},
    "task_heads": {"task": {"name": "own"}, "options": {"n": 8}},
    "text_loss": {"corpus": TEXT, "options": {"n": 8, "seq_len": 12}},
    "in_context_learning_score": {"corpus": TEXT, "options": {"n": 8, "early": 4, "late": [20, 24]}},
    "text_quality": {"corpus": TEXT, "options": {"words": 12, "pieces": 2}},
    "head_importance": {"corpus": TEXT, "options": {"n": 8, "seq_len": 12, "source": "zero"}},
    "patched_heads": {"options": {"n": 4, "seq_len": 8}},
    "activation_patching": {**ASKED, "options": {"activation": "z", "axes": ["layer", "head"]}},
    "path_patching": {**ASKED, "options": {"senders": "heads", "receivers": ["logits"]}},
    "attribution_patching": {**ASKED, "options": {"activation": "mlp_out", "axes": ["layer", "pos"]}},
    "screen_and_verify": {**ASKED, "options": {"activation": "z", "axes": ["layer", "head"], "k": 2}},
    "edge_effects": {**ASKED, "options": {"edges": ["embed->logits", "0.0->1.0.q"]}},
    "edge_attribution": {"prompts": {"task": "induction", "n": 4, "seq_len": 8}, "options": {"method": "eap_ig"}},
    "run_circuit": {**ASKED, "options": {"edges": ["embed->logits", "mlp1->logits"]}},
    "find_circuit": {**ASKED, "options": {"method": "eap", "n_edges": 4}},
    "grade_circuit_methods": {**ASKED, "options": {"methods": ["eap", "weights"], "steps": 2}},
    "validate_circuit": {
        "prompts": {"task": "induction", "n": 4, "seq_len": 8},
        "options": {
            "circuit": ["embed->logits", "mlp1->logits"],
            "n_random": 8,
            "knockouts": 2,
            "held_out": {**PROMPTS, "metric": METRIC},
            "tasks": {"names": {**PROMPTS, "metric": METRIC}},
        },
    },
    "scrub": {
        "prompts": {"task": "induction", "n": 16},
        "options": {"hypothesis": HYPOTHESIS, "n_draws": 2, "weaken": False},
    },
    "logit_lens": {"text": "ROMEO: hear", "options": {"k": 3, "layers": [0]}},
    "measure_convergence": {"corpus": TEXT, "options": {"n": 8, "seq_len": 12}},
    "direct_logit_attribution": {"text": "ROMEO: hear", "options": {"answer": "a", "wrong": "b"}},
    "train_tuned_lens": {"corpus": TEXT, "options": {"steps": 2, "seq_len": 12, "n_test": 4, "n_stop": 4}},
    "evaluate_lens": {"corpus": TEXT, "options": {"n": 8, "seq_len": 12, "lens": {"result": "train_tuned_lens"}}},
    "search_neurons": {"corpus": TEXT, "options": {"layers": [0], "k": 2, "window": 4}},
    "find_neurons": {"corpus": TEXT, "options": {"predicate": "upper_case", "permutations": 4, "sample": 200}},
    "ablate_neurons": {"corpus": TEXT, "options": {"neurons": ["0.1", [1, 2]], "n": 4, "k": 2, "controls": 2}},
    "neuron_statistics": {"corpus": TEXT, "options": {"layers": [1], "neurons": [0, 1, 2]}},
    "get_neuron_activations": {"text": "ROMEO: hear", "options": {"neurons": [1, 3], "layers": 0}},
    "principal_components": {"corpus": TEXT, "options": {"activation": "resid_post", "layer": 0, "k": 2}},
    "project_direction": {"options": {"direction": [float(i) for i in range(1, 17)]}},
    "direction_similarity": {"options": {"direction": [float(i) for i in range(1, 17)]}},
    "intervene": {
        "text": "ROMEO: hear",
        "metric": {"name": "loss"},
        "options": {"interventions": [{"place": "1.0", "source": "zero"}], "activations": ["z"]},
    },
    "steering_effect": {
        "corpus": TEXT,
        "options": {"direction": [1.0] * 16, "layer": 0, "scales": [2.0], "controls": 2, "n": 4, "seq_len": 12},
    },
}
"""A body for each; the lens of `evaluate_lens` is the result of another one."""

NOT_AVAILABLE = {"evaluate_sae"}

assert set(BODIES) | NOT_AVAILABLE == set(ANALYSES)
