"""The options of IPOPT 3.14 and what they take, checked before IPOPT sees them: it prints what it refuses.

Options of linear solvers (`mumps_...`, `ma57_...`, `pardiso_...`, ...) depend on how IPOPT was built and go to it
unchecked.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from mktopt.errors import SolverError, unknown_name

_NUMBERS = """
tol>0 s_max>0 max_wall_time>0 max_cpu_time>0 dual_inf_tol>0 constr_viol_tol>0 compl_inf_tol>0 acceptable_tol>0
acceptable_dual_inf_tol>0 acceptable_constr_viol_tol>0 acceptable_compl_inf_tol>0 acceptable_obj_change_tol>=0
diverging_iterates_tol>0 mu_target>=0 print_frequency_time>=0 nlp_lower_bound_inf nlp_upper_bound_inf
findiff_perturbation>0 kappa_d>=0 bound_relax_factor>=0 obj_scaling_factor nlp_scaling_max_gradient>0
nlp_scaling_obj_target_gradient>=0 nlp_scaling_constr_target_gradient>=0 nlp_scaling_min_value>=0 bound_push>0
bound_frac>0<=0.5 slack_bound_push>0 slack_bound_frac>0<=0.5 constr_mult_init_max>=0 bound_mult_init_val>0
warm_start_bound_push>0 warm_start_bound_frac>0<=0.5 warm_start_slack_bound_push>0 warm_start_slack_bound_frac>0<=0.5
warm_start_mult_bound_push>0 warm_start_mult_init_max warm_start_target_mu mu_max_fact>0 mu_max>0 mu_min>0
adaptive_mu_kkterror_red_fact>0<1 filter_margin_fact>0<1 filter_max_margin>0 adaptive_mu_monotone_init_factor>0
mu_init>0 barrier_tol_factor>0 mu_linear_decrease_factor>0<1 mu_superlinear_decrease_power>1<2 tau_min>0<1 sigma_max>0
sigma_min>=0 quality_function_section_sigma_tol>=0<1 quality_function_section_qf_tol>=0<1 alpha_red_factor>0<1
alpha_for_y_tol>=0 tiny_step_tol>=0 tiny_step_y_tol>=0 theta_max_fact>0 theta_min_fact>0 eta_phi>0<0.5 delta>0 s_phi>1
s_theta>1 gamma_phi>0<1 gamma_theta>0<1 alpha_min_frac>0<1 kappa_soc>0 obj_max_inc>1 corrector_compl_avrg_red_fact>0
nu_init>0 nu_inc>0 rho>0<1 kappa_sigma>0 recalc_y_feas_tol>0 slack_move>=0 residual_ratio_max>0
residual_ratio_singular>0 residual_improvement_factor>0 neg_curv_test_tol>=0 max_hessian_perturbation>0
min_hessian_perturbation>=0 perturb_inc_fact_first>1 perturb_inc_fact>1 perturb_dec_fact>0<1
first_hessian_perturbation>0 jacobian_regularization_value>=0 jacobian_regularization_exponent>=0
expect_infeasible_problem_ctol>=0 expect_infeasible_problem_ytol>0 soft_resto_pderror_reduction_factor>=0
required_infeasibility_reduction>=0<1 resto_penalty_parameter>0 resto_proximity_weight>=0
bound_mult_reset_threshold>=0 constr_mult_reset_threshold>=0 resto_failure_feasibility_threshold>=0
limited_memory_init_val>0 limited_memory_init_val_max>0 limited_memory_init_val_min>0 derivative_test_perturbation>0
derivative_test_tol>0 point_perturbation_radius>=0
"""
_WHOLE_NUMBERS = """
max_iter>=0 acceptable_iter>=0 print_level>=0<=12 file_print_level>=0<=12 print_frequency_iter>=1
adaptive_mu_kkterror_red_iters>=0 quality_function_max_section_steps>=0 accept_after_max_steps>=-1
watchdog_shortened_iter_trigger>=0 watchdog_trial_iter_max>=1 max_soc>=0 max_filter_resets>=0 filter_reset_trigger>=1
soc_method>=0<=1 min_refinement_steps>=0 max_refinement_steps>=0 max_soft_resto_iters>=0 max_resto_iter>=0
limited_memory_max_history>=0 limited_memory_max_skipping>=1 derivative_test_first_index>=-2
"""
_SWITCHES = """
file_append print_user_options print_timing_statistics print_info_string dependency_detection_with_rhs
honor_original_bounds check_derivatives_for_naninf grad_f_constant jac_c_constant jac_d_constant hessian_constant
least_square_init_primal least_square_init_duals warm_start_init_point warm_start_same_structure
warm_start_entire_iterate replace_bounds skip_finalize_solution_call timing_statistics accept_every_trial_step
skip_corr_if_neg_curv skip_corr_in_monotone_mode recalc_y linear_scaling_on_demand mehrotra_algorithm
fast_step_computation neg_curv_test_reg perturb_always_cd expect_infeasible_problem start_with_resto
derivative_test_print_all adaptive_mu_restore_previous_iterate mu_allow_fast_monotone_decrease
evaluate_orig_obj_at_resto_trial limited_memory_special_for_resto sb
"""
_WORDS = """
inf_pr_output=internal|original
fixed_variable_treatment=make_parameter|make_parameter_nodual|make_constraint|relax_bounds
dependency_detector=none|mumps jacobian_approximation=exact|finite-difference-values
gradient_approximation=exact|finite-difference-values
nlp_scaling_method=none|user-scaling|gradient-based|equilibration-based bound_mult_init_method=constant|mu-based
adaptive_mu_globalization=kkt-error|obj-constr-filter|never-monotone-mode
adaptive_mu_kkt_norm_type=1-norm|2-norm-squared|max-norm|2-norm mu_strategy=monotone|adaptive
mu_oracle=probing|loqo|quality-function fixed_mu_oracle=probing|loqo|quality-function|average_compl
quality_function_norm_type=1-norm|2-norm-squared|max-norm|2-norm
quality_function_centrality=none|log|reciprocal|cubed-reciprocal line_search_method=filter|cg-penalty|penalty
alpha_for_y=primal|bound-mult|min|max|full|min-dual-infeas|safer-min-dual-infeas|primal-and-full|dual-and-full|acceptor
corrector_type=none|affine|primal-dual linear_solver=ma27|ma57|ma77|ma86|ma97|pardiso|spral|mumps|custom
linear_system_scaling=none|mc19|slack-based limited_memory_aug_solver=sherman-morrison|extended
limited_memory_update_type=bfgs|sr1 limited_memory_initialization=scalar1|scalar2|scalar3|scalar4|constant
hessian_approximation=exact|limited-memory hessian_approximation_space=nonlinear-variables|all-variables
derivative_test=none|first-order|second-order|only-second-order quality_function_balancing_term=none|cubic
constraint_violation_norm_type=1-norm|2-norm|max-norm
"""
_TEXTS = """
output_file
"""
_LINEAR_SOLVERS = ("mumps_", "ma27_", "ma57_", "ma77_", "ma86_", "ma97_", "pardiso", "spral_", "wsmp_", "hsllib")


def _table() -> dict[str, tuple[str, str]]:
    """name -> (kind, what limits it), as written above."""
    table = {}
    for kind, text in (("number", _NUMBERS), ("whole number", _WHOLE_NUMBERS)):
        for item in text.split():
            name = re.split("[<>]", item)[0]
            table[name] = (kind, item[len(name) :])
    for item in _WORDS.split():
        name, _, words = item.partition("=")
        table[name] = ("word", words)
    table |= dict.fromkeys(_SWITCHES.split(), ("word", "yes|no"))
    return table | dict.fromkeys(_TEXTS.split(), ("text", ""))


_KNOWN = _table()
_INFINITE = 1e300


def checked(name: str, value: Any) -> Any:
    """The value as IPOPT takes it (float, int or str); raises UnknownNameError or SolverError."""
    value = value.item() if isinstance(value, np.generic) else value
    if name.startswith(_LINEAR_SOLVERS):
        return value
    if name not in _KNOWN:
        raise unknown_name("IPOPT option", name, [*_OWN, *_KNOWN])
    kind, limits = _KNOWN[name]
    found = _number(kind, limits, value) if kind.endswith("number") else _word(limits, value)
    if found is None:
        raise refused(name, value)
    return found


# Options of this package's own, for the list of known ones.
_OWN = ("time_limit", "warm_start", "progress")


def refused(name: str, value: Any) -> SolverError:
    """The error for a value that an option cannot take."""
    kind, limits = _KNOWN.get(name, ("value", ""))
    wanted = f"one of {limits.replace('|', ', ')}" if kind == "word" else f"a {kind} {limits}".strip()
    return SolverError(f"IPOPT option '{name}' does not take the value {value!r}; it takes {wanted}")


def _number(kind: str, limits: str, value: Any) -> float | int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return None
    if kind == "whole number" and (abs(value) > 2**31 - 1 or value != int(value)):
        return None
    for relation, limit in re.findall("([<>]=?)([-+.e0-9]+)", limits):
        allowed = {"<": value < float(limit), "<=": value <= float(limit), ">": value > float(limit)}
        if not allowed.get(relation, value >= float(limit)):
            return None
    return int(value) if kind == "whole number" else float(np.clip(value, -_INFINITE, _INFINITE))


def _word(limits: str, value: Any) -> str | None:
    text = ("yes" if value else "no") if isinstance(value, bool) else value
    if not isinstance(text, str) or (limits and text not in limits.split("|")):
        return None
    return text
